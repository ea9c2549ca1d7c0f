"""The process that lowers programs: `runtime.lowering` starts it, its input is a socket.

It receives a `Setting`, then one `Recipe` after the other, and sends an `Exported` for each, all as
pickles. An error ends it.
"""

import pickle
import socket

import jax

from pallas_kernels.kernel_names import without_numbers
from runtime.exported import Setting, export_program
from runtime.recipe import Recipe


def main() -> None:
    """Works until nobody asks any more."""
    with socket.socket(fileno=0).makefile("rwb") as owner, without_numbers():
        setting: Setting = pickle.load(owner)
        for name, value in setting.options.items():
            if jax.config.values[name] != value:
                jax.config.update(name, value)
        while True:
            try:
                recipe: Recipe = pickle.load(owner)
            except EOFError:
                return
            pickle.dump(export_program(recipe, setting), owner)
            owner.flush()


if __name__ == "__main__":
    main()
