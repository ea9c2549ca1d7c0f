"""The process that lowers programs: `python -m runtime.lowering_process`, pickles in and out.

Read from its input: a `Setting`, then one `Order` after the other; for each an `Exported` is
written. An error ends it.
"""

import os
import pickle
import sys

import jax

from runtime.exported import Order, Setting, export_program


def main() -> None:
    """Works until its input ends."""
    # what else is printed here must not be read as an answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = sys.stdin.buffer
    setting: Setting = pickle.load(orders)
    for name, value in setting.options.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)
    while True:
        try:
            order: Order = pickle.load(orders)
        except EOFError:
            return
        pickle.dump(export_program(order, setting), answers)
        answers.flush()


if __name__ == "__main__":
    main()
