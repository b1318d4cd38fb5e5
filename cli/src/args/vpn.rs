//! `vpn`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum VpnCommand {
    /// Make a tunnel that the daemon keeps: a WireGuard interface with addresses, routes and a UDP port
    Create(VpnCreateArgs),
    /// A tunnel's peers
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Show a tunnel and its peers
    Show {
        /// The tunnel
        name: String,
    },
    /// List the tunnels
    List,
    /// Make a tunnel of a wg-quick file
    Import(VpnImportArgs),
    /// Write the wg-quick file with which a peer reaches a tunnel; only its owner can read it
    ///
    /// The peer's private key is in it if it was made here (peer add --generate). Otherwise the peer takes its own from
    /// /etc/wireguard/INTERFACE.key when it brings the tunnel up.
    Export {
        /// The tunnel
        name: String,
        /// The peer, by its name or public key
        peer: String,
        /// Where the peer finds this host, as HOST or HOST:PORT
        #[arg(long)]
        endpoint: Option<String>,
        /// The file, which must not exist [default: NAME-PEER.conf]; - for standard output
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Take a tunnel away, with its keys
    Remove {
        /// The tunnel
        name: String,
    },
    /// Make a WireGuard interface that wg and wg-quick administer, and serve it until it is taken away
    ///
    /// Without --foreground the command returns once the interface can be configured, and a process stays behind. It
    /// ends when it is told to, or when somebody takes the interface away (ip link delete NAME). wg-quick uses it when
    /// WG_QUICK_USERSPACE_IMPLEMENTATION names a script that calls it with the interface's name.
    Run {
        /// The interface's name
        name: String,
        /// Stay in the foreground, as WG_PROCESS_FOREGROUND=1 does
        #[arg(long, short)]
        foreground: bool,
    },
    /// Write a new private key to a file that only its owner can read, and print the public key
    Keygen {
        /// The file, which must not exist
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct VpnCreateArgs {
    /// Its name, which is its interface's too
    pub(crate) name: String,
    /// The host's address in it, such as 10.99.0.1/24; may be given several times
    #[arg(long = "address", value_name = "CIDR", required = true)]
    pub(crate) addresses: Vec<String>,
    /// Its UDP port [default: any free one, and that one ever after]
    #[arg(long, value_name = "PORT")]
    pub(crate) listen: Option<u16>,
    /// The file with its private key [default: a new key]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Its largest packet, in bytes [default: 1420]
    #[arg(long)]
    pub(crate) mtu: Option<u32>,
    /// The mark of what it sends, for the host's routing
    #[arg(long)]
    pub(crate) fwmark: Option<u32>,
    /// Lead nothing to it: somebody else makes the routes
    #[arg(long)]
    pub(crate) no_routes: bool,
    #[command(flatten)]
    pub(crate) place: VpnPlaceArgs,
    /// Write the secrets of each handshake to this file, for Wireshark: whoever reads it reads the traffic
    #[arg(long, value_name = "FILE")]
    pub(crate) insecure_key_log: Option<PathBuf>,
}

/// Where a tunnel is.
#[derive(Debug, Args)]
pub(crate) struct VpnPlaceArgs {
    /// The network namespace of its interface; its UDP port stays outside
    #[arg(long)]
    pub(crate) netns: Option<String>,
    /// The network namespace of its UDP port
    #[arg(long)]
    pub(crate) socket_netns: Option<String>,
    /// The network whose guests reach the peers
    #[arg(long)]
    pub(crate) net: Option<String>,
    /// Let those guests go under the tunnel's own address
    #[arg(long, requires = "net")]
    pub(crate) nat: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VpnImportArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// The tunnel's name [default: the file's, without .conf]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) place: VpnPlaceArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Give a tunnel a peer, and lead its addresses to the tunnel
    Add(PeerAddArgs),
    /// Take a peer away
    Remove {
        /// The tunnel
        name: String,
        /// The peer, by its name or public key
        peer: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PeerAddArgs {
    /// The tunnel
    pub(crate) name: String,
    /// The peer's public key
    #[arg(long, value_name = "KEY", required_unless_present = "generate")]
    pub(crate) key: Option<String>,
    /// Make a key pair for the peer; its private key is handed out by `vpn export` alone
    #[arg(long, conflicts_with = "key")]
    pub(crate) generate: bool,
    /// A name for it here
    #[arg(long = "name", value_name = "PEER")]
    pub(crate) peer: Option<String>,
    /// Addresses behind it
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', required = true)]
    pub(crate) allowed: Vec<String>,
    /// Where it is [default: where its datagrams come from]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) endpoint: Option<String>,
    /// The file with the secret that both sides have besides
    #[arg(long, value_name = "FILE")]
    pub(crate) psk_file: Option<PathBuf>,
    /// Send a keepalive this often, which holds the way through a NAT open
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) keepalive: u16,
}
