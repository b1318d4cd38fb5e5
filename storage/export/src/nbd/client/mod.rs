//! Devices behind other NBD servers.

mod url;

pub use url::{Place, Url};
