# SPDX-License-Identifier: Apache-2.0
"""Training curricula for vision models, built on the same loop as the language models.

The package will hold multiscale and compound-scaling curricula, compressible subspaces and pruning timing. They share
one idea with `hylora.training`: a curriculum is a pure function of training progress, so a resumed run and every rank
agree on it by construction. Nothing is implemented here yet.
"""
