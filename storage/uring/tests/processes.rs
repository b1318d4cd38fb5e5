//! What needs a process of its own: locks that outlive nobody, and a process without descriptors.
#![allow(clippy::unwrap_used)] // A test says what went wrong by panicking.

mod backends;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backends::on_each;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weft_block::ErrorKind;
use weft_uring::{Address, FileDevice, Listener, OpenOptions, Stream, sleep, spawn};

const FOLDER: &str = "WEFT_TEST_FOLDER";

/// Runs the test `name` of this program in a child, which finds its folder in the environment.
fn child(name: &str, folder: &tempfile::TempDir) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The folder, in a child. Nothing in an ordinary run, where the child's part is to do nothing.
fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

#[test]
fn child_that_holds_a_lock() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    let _device = FileDevice::open(folder.join("disk"), &OpenOptions::default()).unwrap();
    println!("\nlocked");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_lock_goes_away_with_its_killed_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    FileDevice::create(&path, 1 << 20).unwrap();
    let mut holder = child("child_that_holds_a_lock", &folder);
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "locked"));
    let error = FileDevice::open(&path, &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    holder.kill().unwrap();
    holder.wait().unwrap();
    FileDevice::open(&path, &OpenOptions::default()).unwrap();
}

#[test]
fn child_without_descriptors() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    on_each(|_| {
        let address = Address::Unix(folder.join("socket"));
        async move {
            let listener = Listener::bind(&address).unwrap();
            let client = Stream::connect(&address).await.unwrap();
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
            let mut hoard = Vec::new();
            while let Ok(file) = File::open("/dev/null") {
                hoard.push(file);
            }
            let accepting = spawn(async move { listener.accept().await });
            sleep(Duration::from_millis(20)).await;
            assert!(!accepting.is_finished());
            drop(hoard);
            let server = accepting.await.unwrap();
            client.send(b"at last".to_vec()).await.0.unwrap();
            let (result, memory) = server.recv_exact(vec![0; 7]).await;
            result.unwrap();
            assert_eq!(memory, b"at last");
        }
    });
}

#[test]
fn an_accept_loop_survives_a_process_without_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let output = child("child_without_descriptors", &folder)
        .wait_with_output()
        .unwrap();
    assert!(output.status.success());
}
