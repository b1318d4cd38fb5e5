//! The storage edge: io_uring executor, shards, files and block devices.
