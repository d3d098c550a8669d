# SPDX-License-Identifier: Apache-2.0
"""Needles that share no word with the question: who is meant follows from what everybody knows.

After the idea of NoLiMa (Modarressi et al., 2025, https://arxiv.org/abs/2502.05167) that literal matches make needles
easy to find. Sentences, questions and names are our own, so scores are not those of the published set.
"""

from __future__ import annotations

from hylora_eval.ruler.family import Draft, Family, find_all
from hylora_eval.ruler.haystack import Essay
from hylora_eval.ruler.needles import hide
from hylora_eval.ruler.streams import Streams
from hylora_eval.ruler.tasks import Task

__all__ = ["NAMES", "TOPICS", "Implied"]

# None is a word, or part of another.
# fmt: off
NAMES = (
    "Aldric", "Bettina", "Corvin", "Delphine", "Eskil", "Fenella", "Gunnar", "Henrike", "Isolde", "Jorunn",
    "Kaspian", "Leocadia", "Maelis", "Nikodem", "Ottoline", "Perpetua", "Quillon", "Rosalba", "Sigrun", "Tancred",
    "Ulrika", "Valdemar", "Wilfreda", "Yevgenia", "Zenobia",
)
# fmt: on

_LANDMARKS = {
    "Australia": "Uluru",
    "Belgium": "the Atomium",
    "Brazil": "the statue of Christ the Redeemer",
    "Cambodia": "Angkor Wat",
    "Denmark": "the Little Mermaid",
    "Egypt": "the Great Sphinx",
    "England": "Big Ben",
    "France": "the Eiffel Tower",
    "Germany": "the Brandenburg Gate",
    "Greece": "the Acropolis",
    "India": "the Taj Mahal",
    "Italy": "the Colosseum",
    "Japan": "Mount Fuji",
    "Mexico": "the pyramid of Chichen Itza",
    "Peru": "Machu Picchu",
    "Russia": "the Kremlin",
    "South Africa": "Table Mountain",
    "Spain": "the Sagrada Familia",
    "Turkey": "the Hagia Sophia",
}
_AT_WORK = {
    "a baker": "kneads dough long before dawn",
    "a barber": "trims beards and sideburns all day",
    "a beekeeper": "calms the hives with smoke before taking the honey",
    "a dentist": "fills cavities from nine to five",
    "a farmer": "sold the tractor after the wheat was in",
    "a firefighter": "climbed a ladder into the burning attic",
    "a fisherman": "hauled in nets full of cod",
    "a lawyer": "cross-examined two witnesses before lunch",
    "a librarian": "lends out novels and stamps the date in them",
    "a mason": "laid four hundred bricks on Tuesday",
    "a midwife": "has helped a thousand babies into the world",
    "a pilot": "landed in fog with a cabin full of passengers",
    "a plumber": "unblocked the drain beneath the sink",
    "a tailor": "took up the hem of a suit",
    "a teacher": "marked forty exams over the weekend",
}
_MUSIC = {
    "the accordion": "squeezed the bellows until midnight",
    "the bagpipes": "put on a kilt and tuned the drones",
    "the drums": "hit the snare so hard that a stick broke",
    "the guitar": "lost a plectrum during the solo",
    "the harp": "plucked all forty-seven strings",
    "the oboe": "moistened a double reed",
    "the organ": "pulled out every stop in the cathedral",
    "the piano": "sat down at a Steinway",
    "the trombone": "moved the slide to seventh position",
    "the violin": "took a Stradivarius out of its case",
}
_ANIMALS = {
    "a cat": "changed the litter in the tray",
    "a dog": "threw a stick across the park and got it back",
    "a horse": "put on the saddle and tightened the girth",
    "a parrot": "hung a mirror in the cage and taught it to swear",
    "a snake": "put a live mouse behind the glass and waited for it to be swallowed",
    "a tortoise": "left lettuce by a shell that slept all winter",
    "bees": "harvested two jars of honey",
    "cows": "was up at five for the milking",
    "hens": "gathered a dozen eggs before breakfast",
    "sheep": "filled nine sacks with wool",
}

# Of each topic, statements about somebody and the question that each of them alone answers.
TOPICS = (
    tuple(
        (f"{{name}} can see {seen} from the kitchen.", f"Who lives in {there}?") for there, seen in _LANDMARKS.items()
    ),
    tuple((f"{{name}} {does}.", f"Who works as {whom}?") for whom, does in _AT_WORK.items()),
    tuple((f"{{name}} {does}.", f"Who plays {what}?") for what, does in _MUSIC.items()),
    tuple((f"{{name}} {does}.", f"Who keeps {what}?") for what, does in _ANIMALS.items()),
)


class Implied(Family):
    """The tasks niah_implied_*.

    Args:
        task: its settings say how many statements hide.
        essay: the prose they hide in.
    """

    unit = "word"
    smallest = 1

    def __init__(self, task: Task, essay: Essay) -> None:
        self.name = task.name
        self._prompt = task.prompt
        self._needles = task.settings["needles"]
        self._essay = essay

    def draw(self, size: int, streams: Streams) -> Draft:
        stream = streams.random("needles")
        pairs = stream.sample(stream.choice(TOPICS), self._needles)
        names = stream.sample(NAMES, self._needles)
        needles = [statement.format(name=name) for (statement, _), name in zip(pairs, names, strict=True)]
        # They come in random order already, so the first may be the one that is asked for.
        (_, question), name, needle = pairs[0], names[0], needles[0]
        streams.shuffle(needles)
        text, answer_prefix = self._prompt.fill(context=hide(needles, self._essay, size, streams), query=question)
        return Draft(
            input=text,
            answer_prefix=answer_prefix,
            outputs=(name,),
            evidence=find_all(text, [needle]),
            occurrences=dict.fromkeys(names, 1),
        )
