//! vhost-user backends for any VMM.
