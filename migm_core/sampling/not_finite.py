"""A model whose numbers are not finite."""


class NotFinite(FloatingPointError):
    """A step gave values that are not finite: its weights are damaged, or its dtype is too narrow.

    Attributes:
        kind: "full", the method's own kind of step, or "decode".
    """

    def __init__(self, kind: str = "full"):
        super().__init__(f"The model gives values that are not finite at a {kind} step. The file may be damaged, or needs dtype fp32.")
        self.kind = kind
