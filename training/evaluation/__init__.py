# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What commands score: `evaluate_held_out` a model on held-out conversations (`vita-audio evaluate`),
`evaluate_benchmarks` a model on published sets, `evaluate_codec` a codec. Speech is scored by what an independent
recogniser hears. How fast a model is, apart from what it says, the folder `benchmarks` of the repository measures.
"""
