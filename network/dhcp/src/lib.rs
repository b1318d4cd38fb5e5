//! A DHCP server as a machine without I/O.
