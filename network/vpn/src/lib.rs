//! WireGuard as a machine without I/O (the protocol of Jason A. Donenfeld's whitepaper, `wireguard.com/papers`).
//!
//! A [`Tunnel`] is one interface: a private key and peers. It takes datagrams, packets and the time, and gives
//! datagrams to send and packets to deliver. Clocks and chance are passed in, so a run follows from its seed.
//!
//! # What it promises
//!
//! - Packets travel sealed, to the peer that has their destination, and come out once, if their source belongs to the
//!   peer that sealed them. What is lost, repeated, reordered, cut or forged on the way is lost, and nothing more.
//! - A peer is where its latest genuine message came from.
//! - Whoever does not know the tunnel's public key costs one MAC a datagram and no memory. Whoever knows it costs two
//!   once there are too many handshakes, until it has proved its address and port; no more memory either.
//! - It does nothing by itself: [`Tunnel::poll_timeout`] is one instant for all peers, and none when all are silent.
//! - Keys are wiped when they are dropped, and are dropped when nobody has spoken for nine minutes.
//!
//! # What it leaves to others
//!
//! Sockets, devices and threads. [`Session`]s can be taken out and shared: batches are sealed and opened in place, in
//! the buffers of whoever moves them, without a lock of the machine's.

mod allowed;
mod cookie;
mod deadlines;
mod entropy;
mod indices;
mod ip;
mod key;
mod key_log;
mod keys_in_turn;
mod load;
mod mac;
mod message;
mod noise;
mod output;
mod peer;
mod replay;
mod session;
mod tai64n;
mod timers;
pub mod timing;
mod tunnel;
pub mod uapi;
pub mod wg_quick;

pub use allowed::{AllowedIps, BadPrefix, Prefix};
pub use entropy::Entropy;
pub use ip::{IpPacket, padded_length};
pub use key::{BadKey, KEY_BYTES, PresharedKey, PrivateKey, PublicKey};
pub use key_log::{HandshakeSecrets, KeyLog};
pub use load::LoadLimits;
pub use message::{
    COOKIE_REPLY, CookieReply, DATA_HEADER, Data, INITIATION, Initiation, Message, OVERHEAD,
    RESPONSE, Response, TAG,
};
pub use output::{
    Bytes, Delivery, Endpoint, Event, LocalAddress, Now, Output, PeerId, Refusal, Tally,
};
pub use peer::{PeerStatus, STAGED_BYTES, STAGED_PACKETS};
pub use replay::REPLAY_WINDOW;
pub use session::{Session, SessionError};
pub use tunnel::{DEFAULT_MTU, Lane, Tunnel};
