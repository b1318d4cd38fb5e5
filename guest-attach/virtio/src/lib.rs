//! Virtqueues and the block and network device models, without a transport.
