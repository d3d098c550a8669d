# SPDX-License-Identifier: Apache-2.0
"""`python -m hylora_cli`: the command line, for launchers that start a module in several processes."""

from hylora_cli import main

if __name__ == "__main__":
    main()
