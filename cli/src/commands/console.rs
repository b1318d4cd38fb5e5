//! `weft vm console`: what a machine says, and typing into it.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
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

/// How long to go on listening after a script has said its last word: a serial line takes it in byte by byte, and what
/// is left of it is lost when the connection closes.
const LINGER: Duration = Duration::from_millis(500);

/// Copies both ways until the guest ends, the escape is typed, or standard input has ended and the guest is silent.
async fn talk(stream: UnixStream) -> std::io::Result<()> {
    let (from_guest, mut to_guest) = stream.into_split();
    let mut said = Said {
        from_guest,
        buffer: [0; 4096],
    };
    tokio::select! {
        ended = said.repeat_all() => return ended,
        spoken = speak(&mut to_guest) => if spoken? == Spoken::Escape { return Ok(()) },
    }
    loop {
        match tokio::time::timeout(LINGER, said.repeat()).await {
            Err(_) | Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// What the guest says.
struct Said {
    from_guest: OwnedReadHalf,
    buffer: [u8; 4096],
}

impl Said {
    /// Repeats the next bytes; none when the guest has ended.
    async fn repeat(&mut self) -> std::io::Result<usize> {
        let count = self.from_guest.read(&mut self.buffer).await?;
        let mut out = std::io::stdout();
        out.write_all(&self.buffer[..count])?;
        out.flush()?;
        Ok(count)
    }

    async fn repeat_all(&mut self) -> std::io::Result<()> {
        while self.repeat().await? != 0 {}
        Ok(())
    }
}

/// How standard input came to its end.
#[derive(PartialEq, Eq)]
enum Spoken {
    Escape,
    End,
}

async fn speak(to_guest: &mut OwnedWriteHalf) -> std::io::Result<Spoken> {
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
            return Ok(Spoken::Escape);
        }
        to_guest.write_all(&bytes).await?;
    }
    to_guest.flush().await?;
    Ok(Spoken::End)
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
