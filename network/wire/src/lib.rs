//! Packet types: bytes with accessors, and valid representations.
