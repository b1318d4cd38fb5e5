use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::*;
use crate::control::{Client, State};
use crate::report::Ending;
use crate::timeline::Timeline;

#[derive(Clone, Default)]
struct Counter(Arc<[AtomicU32; 4]>);

impl Counter {
    fn count(&self, which: usize) {
        self.0[which].fetch_add(1, Ordering::SeqCst);
    }
    fn counts(&self) -> Vec<u32> {
        self.0
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .collect()
    }
}

impl Operator for Counter {
    fn status(&self) -> Status {
        Status {
            name: "t".into(),
            pid: 1,
            state: State::Running,
            boots: 1,
            devices: Vec::new(),
            steps: Vec::new(),
        }
    }
    fn obey(&self, order: Order) {
        self.count(order as usize);
    }
}

struct Running {
    folder: tempfile::TempDir,
    counter: Counter,
    screen: Arc<Screen>,
    end: Arc<End>,
    thread: JoinHandle<()>,
}

fn listen(path: PathBuf) -> Option<UnixListener> {
    let listener = UnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    Some(listener)
}

fn start() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let sockets = Sockets {
        control: listen(folder.path().join("control")),
        console: listen(folder.path().join("console")),
        log: Some(Log::open(&folder.path().join("log"), 1 << 20).unwrap()),
        stdout: false,
    };
    let counter = Counter::default();
    let screen = Arc::new(Screen::new(Arc::new(Timeline::new())).unwrap());
    let operator = Box::new(counter.clone());
    let mut server = Server::new(sockets, operator, screen.clone(), Arc::default()).unwrap();
    let end = server.end();
    let thread = std::thread::spawn(move || server.run());
    Running {
        folder,
        counter,
        screen,
        end,
        thread,
    }
}

fn report() -> Report {
    Report {
        name: "t".into(),
        ending: Ending::PoweredOff,
        boots: 1,
        steps: Vec::new(),
        sandbox: Default::default(),
    }
}

#[test]
fn requests_are_done_and_the_end_is_told() {
    let running = start();
    let path = running.folder.path().join("control");
    let mut client = Client::connect(&path).unwrap();
    assert_eq!(client.status().unwrap().state, State::Running);
    client.shutdown().unwrap();
    client.pause().unwrap();
    client.resume().unwrap();
    client.kill().unwrap();
    assert_eq!(running.counter.counts(), [1, 1, 1, 1]);
    let waiter = std::thread::spawn(move || client.wait(None).unwrap());
    // A second client's answer proves that the first one's `wait` was not taken for the end.
    Client::connect(&path).unwrap().status().unwrap();
    while !waiter.is_finished() {
        running.end.set(report());
        std::thread::yield_now();
        if running.thread.is_finished() {
            break;
        }
    }
    running.thread.join().unwrap();
    // The request may have come after the end: then the connection was closed. Both are an end.
    if let Ok(told) = waiter.join() {
        assert_eq!(told, report());
    }
}

#[test]
fn what_is_not_understood_is_said() {
    let running = start();
    let stream = UnixStream::connect(running.folder.path().join("control")).unwrap();
    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(stream.try_clone().unwrap()));
    for line in ["nonsense", r#"{"op":"fly"}"#, "\u{0}"] {
        (&stream).write_all(format!("{line}\n").as_bytes()).unwrap();
        let reply: Reply = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert!(!reply.ok);
        assert!(reply.error.unwrap().contains("not understood"));
    }
    (&stream).write_all(&[b'x'; 3 * MAX_REQUEST]).unwrap_or(());
    assert!(
        answers.next().is_none_or(|line| line.is_err()),
        "too long a request ends it"
    );
    running.end.set(report());
    running.thread.join().unwrap();
}

#[test]
fn output_goes_to_the_socket_and_the_log() {
    let running = start();
    let mut console = UnixStream::connect(running.folder.path().join("console")).unwrap();
    running.screen.print(b"hello\n");
    let mut seen = [0; 6];
    console.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello\n");
    running.screen.print(b"bye\n");
    running.end.set(report());
    running.thread.join().unwrap();
    let log = std::fs::read_to_string(running.folder.path().join("log")).unwrap();
    assert_eq!(log, "hello\nbye\n", "the last words are kept");
}
