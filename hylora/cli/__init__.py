# SPDX-License-Identifier: Apache-2.0
"""The `hylora` command, one file per subcommand."""
