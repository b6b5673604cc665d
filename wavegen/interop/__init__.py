"""Published checkpoints of other projects, as models of ours; nothing in their files is ever run."""

from pathlib import Path

from wavegen.audio.mel import MelSpec
from wavegen.errors import WavegenError
from wavegen.interop import nvidia, r9y9
from wavegen.interop.checkpoints import read_tensors
from wavegen.interop.weights import Weights
from wavegen.vocoders.base import Vocoder

__all__ = ["import_checkpoint", "read_tensors"]


def import_checkpoint(
    path: Path | str, *, mel: MelSpec | None = None, stacks: int | None = None, alternating: bool | None = None
) -> tuple[Vocoder, str]:
    """The model in a checkpoint of NVIDIA's WaveGlow or r9y9's WaveNet, and what its layout is called.

    A checkpoint does not say everything: `mel` is the convention it was trained on, `stacks` how many times the
    dilations of a WaveNet begin again, `alternating` whether the halves of a WaveGlow take turns. None stands for what
    the published models have.

    Raises:
        WavegenError: no such file, no checkpoint of torch, a hostile one, or weights of another layout.
    """
    tree = read_tensors(path)
    try:
        weights = Weights(tree)
        if r9y9.is_wavenet(weights):
            return r9y9.wavenet(weights, mel=mel, stacks=stacks)
        if nvidia.is_waveglow(weights):
            return nvidia.waveglow(weights, mel=mel, alternating=alternating)
        some = min(weights.left)
        raise WavegenError(
            f"got weights such as {some!r:.100}, expected NVIDIA's WaveGlow or r9y9's WaveNet; import one of these"
        )
    except WavegenError as error:
        raise WavegenError(f"{path}: {error}") from error
    except Exception as error:  # of weights that no training made, anything may fail to fit
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WavegenError(f"{path}: its weights do not fit together ({reason}); download it again") from error
