//! The daemon: inventory, reconciliation, jobs and the HTTP API; the only place where things are joined.
