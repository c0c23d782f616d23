"""The value model as an external model of SGLang.

`SGLANG_EXTERNAL_MODEL_PACKAGE=classifier_lib.sglang_model` makes an SGLang server know it; every
module directly in here is one that SGLang imports.
"""
