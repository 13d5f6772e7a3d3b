"""The address of a page, for people: the name of this machine on its network, and a QR code."""

import socket


def network_address() -> str | None:
    """The address by which other machines of the network reach this one; None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as chooser:
        try:
            # Nothing is sent: the system only chooses the address that it would send from. The
            # destination is one of those that are reserved for documentation (RFC 5737).
            chooser.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(chooser.getsockname()[0])
    return None if address.startswith(("0.", "127.")) else address


def qr_code(text: str) -> str:
    """A QR code as lines for a terminal, two rows of it on each line.

    The colours are set, so that it is dark on white whatever the terminal has.
    """
    import segno

    code = segno.make(text, error="l", micro=False)
    rows = [list(row) for row in code.matrix_iter(border=2)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        # The character is the lower half of its cell. The background is the upper half.
        cells = "".join(
            f"\033[{40 if top else 107};{30 if bottom else 97}m▄"
            for top, bottom in zip(upper, lower, strict=True)
        )
        lines.append(f"{cells}\033[0m")
    return "\n".join(lines)
