//! `weft vm console`: what a machine says, and typing into it.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use weft_service::api::{Error, Machine, Result};

/// Ctrl-], as in telnet and virsh.
const ESCAPE: u8 = 0x1d;

pub(super) async fn run(machine: &Machine, log_only: bool) -> Result<()> {
    let failed = |error: std::io::Error| {
        let name = &machine.name;
        Error::from_io(
            name,
            &format!("the console of machine {name} cannot be reached"),
            &error,
        )
    };
    let said = std::fs::read(&machine.console.log).unwrap_or_default();
    std::io::stdout().write_all(&said).map_err(failed)?;
    std::io::stdout().flush().map_err(failed)?;
    if log_only {
        return Ok(());
    }
    let stream = UnixStream::connect(&machine.console.socket)
        .await
        .map_err(failed)?;
    let _raw = RawTerminal::enter();
    talk(stream).await.map_err(failed)
}

/// Copies both ways until the guest ends, standard input ends or the escape is typed.
async fn talk(stream: UnixStream) -> std::io::Result<()> {
    let (mut from_guest, mut to_guest) = stream.into_split();
    let hear = async {
        let mut buffer = [0; 4096];
        loop {
            match from_guest.read(&mut buffer).await? {
                0 => return Ok(()),
                count => {
                    let mut out = std::io::stdout();
                    out.write_all(&buffer[..count])?;
                    out.flush()?;
                }
            }
        }
    };
    let speak = async {
        // A thread of its own: a terminal cannot be read without blocking, and must not be left non-blocking.
        let (keys, mut typed) = tokio::sync::mpsc::channel::<Vec<u8>>(16);
        std::thread::spawn(move || {
            use std::io::Read;
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
                if keys.blocking_send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        while let Some(bytes) = typed.recv().await {
            if std::io::stdin().is_terminal() && bytes.contains(&ESCAPE) {
                break;
            }
            to_guest.write_all(&bytes).await?;
        }
        to_guest.flush().await
    };
    tokio::select! {
        ended = hear => ended,
        ended = speak => ended,
    }
}

/// The terminal without echo and line editing, until dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        eprint!("[Ctrl-] leaves]\r\n");
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}
