"""The process that lowers programs: `runtime.lowering` starts it, its input is a socket.

It receives a `Setting`, then one `Order` after the other, and sends an `Exported` for each, all as
pickles. An error ends it.
"""

import pickle
import socket

import jax

from runtime.exported import Order, Setting, export_program


def main() -> None:
    """Works until nobody asks any more."""
    with socket.socket(fileno=0).makefile("rwb") as owner:
        setting: Setting = pickle.load(owner)
        for name, value in setting.options.items():
            if jax.config.values[name] != value:
                jax.config.update(name, value)
        while True:
            try:
                order: Order = pickle.load(owner)
            except EOFError:
                return
            pickle.dump(export_program(order, setting), owner)
            owner.flush()


if __name__ == "__main__":
    main()
