"""Values of token sequences in batches."""

from collections.abc import Sequence

import torch

from classifier_lib.modeling import Qwen2ForClassifier


class ValueScorer:
    """P(correct) at the last token of many sequences at once.

    Args:
        model: the value model; is put into eval mode.
        max_batch_tokens: tokens of one forward pass, padding included. A longer sequence runs
            alone.
    """

    def __init__(self, model: Qwen2ForClassifier, max_batch_tokens: int = 65_536):
        self.model = model.eval()
        self.max_batch_tokens = max_batch_tokens

    @torch.inference_mode()
    def score(self, sequences: Sequence[list[int]]) -> list[float]:
        """The value at the end of each sequence, in [0, 1], in order.

        Raises:
            ValueError: for an empty sequence.
        """
        values = [0.0] * len(sequences)
        for batch in batch_by_length(list(map(len, sequences)), self.max_batch_tokens):
            longest = len(sequences[batch[-1]])
            # Padding stands on the right and attention is causal: no real token sees it. So no
            # mask is needed, and the attention kernels keep their fast path.
            rows = [sequences[i] + [0] * (longest - len(sequences[i])) for i in batch]
            input_ids = torch.tensor(rows, device=self.model.device)
            ends = torch.tensor([len(sequences[i]) - 1 for i in batch], device=self.model.device)
            success_probs = self.model(input_ids, use_cache=False).success_probs
            at_end = success_probs.gather(1, ends[:, None])[:, 0].tolist()
            for i, value in zip(batch, at_end, strict=True):
                values[i] = value
        return values


def batch_by_length(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Indices grouped into batches of similar length, each within the token budget when padded.

    Within a batch, indices are sorted by length, so that the last one is the longest.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if lengths[index] == 0:
            raise ValueError("cannot score an empty sequence")
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
