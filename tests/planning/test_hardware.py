# SPDX-License-Identifier: Apache-2.0
import pytest

from hylora.planning import Hardware

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "gpus", "memory"),
    [("1x80GB", 1, 80), ("8x80GB", 8, 80), ("24GB", 1, 24), (" 2 x 141 gib ", 2, 141), ("4x1.5GB", 4, 1.5)]
    + [("8xH100", 8, 80), ("h200", 1, 141), ("2 x a100-40", 2, 40), ("RTX 4090", 1, 24)]
    + [("A100-40GB", 1, 40), ("8xMI300X", 8, 192), ("NVIDIA L40S", 1, 45), ("2x4090", 2, 24), ("a100 80GB", 1, 80)],
)
def test_hardware_is_read(text, gpus, memory):
    assert Hardware.parse(text) == Hardware(gpus, int(memory * GIB))


@pytest.mark.parametrize("text", ["", "80", "x80GB", "8x", "8xA100", "-1x80GB", "8x80TB", "8xH1000", "x\n"])
def test_another_form_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="1x80GB"):
        Hardware.parse(text)


@pytest.mark.parametrize("text", ["0x80GB", "1x0GB"])
def test_nothing_to_train_on_is_refused(text):
    with pytest.raises(ValueError, match="must leave something"):
        Hardware.parse(text)


def test_some_memory_is_held_back_and_more_where_gpus_talk():
    one, eight = Hardware.parse("1x80GB"), Hardware.parse("8x80GB")
    assert 0.9 * one.memory < one.usable < one.memory
    assert eight.usable == one.usable - GIB
    assert Hardware.parse("1GB").usable == 0
