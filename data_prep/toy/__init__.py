"""The synthetic task: problems, tokenizer, policy and roll-outs of a small stand-in."""
