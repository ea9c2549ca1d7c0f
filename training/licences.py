"""The licence of a package, as its own metadata states it, and which licences we learn from."""

import re
from email.message import Message

PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "PSF-2.0",
        "Zlib",
    }
)

# What metadata older than SPDX expressions says. A bare "BSD" is one of the two BSD licences, both
# permissive; it is written as the stricter.
CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
}
LICENSE_FIELDS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License (Apache 2.0)": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "MIT License": "MIT",
} | {name: name for name in PERMISSIVE}


def stated_licence(metadata: Message) -> str | None:
    """An SPDX expression, or None where the metadata says nothing that we understand."""
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        str(value)
        for value in metadata.get_all("Classifier", [])
        if str(value).startswith("License :: OSI Approved :: ")
    ]
    if classifiers:
        # all of them, for a second one may be a second part of the package
        names = {CLASSIFIERS.get(value) for value in classifiers}
        return " AND ".join(sorted(map(str, names))) if None not in names else None
    return LICENSE_FIELDS.get(str(metadata.get("License", "")).strip())


def is_permissive(expression: str) -> bool:
    """Whether each part of an SPDX expression is in the list; of an OR, one of the choices.

    Parentheses are not read: an expression that has them is refused.
    """
    return all(
        any(choice.strip() in PERMISSIVE for choice in re.split(r"\s+OR\s+", part))
        for part in re.split(r"\s+AND\s+", expression)
    )
