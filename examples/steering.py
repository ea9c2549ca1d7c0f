"""Steering by a difference of means: a direction that turns one library into another.

The residual stream behind the last layer but one is averaged over prompts that import numpy and
over prompts that import os. Their difference, added with a growing scale to a prompt that imports
neither, moves the next token from `os` to `np`. Every scale is one request of the same batch; the
vector is an argument of the program, so nothing compiles for it.

    python -m examples.steering
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ggjax import LLM, Add, SamplingParams

NUMPY = ["import numpy as np\nx =", "import numpy as np\n\ny =", "import numpy as np\n\nvalues ="]
OS = ["import os\nx =", "import os\n\ny =", "import os\n\nvalues ="]
HELD_OUT = "def run(path):\n    x ="
SITE = "layers.4.resid_post"


def main(llm: LLM, directory: Path) -> dict[str, np.ndarray]:
    """Draws the probabilities of the two names against the scale; returns them."""
    one = SamplingParams(temperature=0, max_tokens=1)
    numpy_runs, os_runs = (llm.generate(prompts, one, capture=[SITE]) for prompts in (NUMPY, OS))
    means = [
        np.mean([output.captured[SITE][-1] for output in runs], axis=0)
        for runs in (numpy_runs, os_runs)
    ]
    direction = means[0] - means[1]
    scales = np.linspace(-2, 2, 17)
    changes = [[Add(SITE, direction, positions=-1, scale=scale)] for scale in scales]
    steered = llm.generate([HELD_OUT] * len(scales), one, capture=["logits"], interventions=changes)
    logits = np.stack([output.captured["logits"][-1] for output in steered])
    shares = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    found = {name: shares[:, llm.tokenize(name)[0]] for name in (" np", " os")}

    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name, values in found.items():
        axes.plot(scales, values, marker=".", label=name)
    axes.set_xlabel("scale of mean(numpy) - mean(os)")
    axes.set_ylabel("probability of the next token")
    axes.set_title(repr(HELD_OUT))
    axes.legend()
    picture = directory / "steering.svg"
    figure.savefig(picture, bbox_inches="tight")
    plt.close(figure)
    print(picture)
    return found


if __name__ == "__main__":
    with LLM("demo", max_model_len=512) as llm:
        main(llm, Path())
