"""PROXY headers, version 2, octet for octet."""

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


# A client that has come to the balancer by TLS.
BY_TLS = tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))


def proxy_header(source="192.0.2.7", tlvs=b""):
    """Of a TCP connection from this address."""
    source = ipaddress.ip_address(source)
    there = ipaddress.ip_address("::1" if source.version == 6 else "127.0.0.1")
    addresses = source.packed + there.packed + struct.pack("!HH", 4711, 110)
    family = 0x21 if source.version == 6 else 0x11
    return SIGNATURE + struct.pack("!BBH", 0x21, family, len(addresses) + len(tlvs)) + addresses \
        + tlvs
