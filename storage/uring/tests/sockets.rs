//! Sockets over both backends.
#![allow(clippy::unwrap_used)] // A test says what went wrong by panicking.

mod backends;

use std::io::ErrorKind;
use std::net::Shutdown;

use backends::on_each;
use weft_block::IoVec;
use weft_uring::{Address, Listener, Stream, sleep, spawn};

fn addresses(folder: &tempfile::TempDir) -> [Address; 2] {
    [
        Address::Unix(folder.path().join("socket")),
        "127.0.0.1:0".parse().unwrap(),
    ]
}

async fn pair(address: &Address) -> (Stream, Stream) {
    let listener = Listener::bind(address).unwrap();
    let to = listener.address().clone();
    let connecting = spawn(async move { Stream::connect(&to).await.unwrap() });
    let accepted = listener.accept().await.unwrap();
    (accepted, connecting.await)
}

#[test]
fn bytes_go_both_ways_in_order() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        for address in addresses(&folder) {
            let (server, client) = pair(&address).await;
            let echo = spawn(async move {
                loop {
                    let (count, mut memory) = server.recv(vec![0; 777]).await;
                    match count.unwrap() {
                        0 => return,
                        count => memory.truncate(count),
                    }
                    server.send(memory).await.0.unwrap();
                }
            });
            let data: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
            let sender = client.clone();
            let sent = data.clone();
            let sending = spawn(async move {
                let parts = sent.chunks(1001).map(IoVec::copy_of).collect();
                sender.send_vectored(parts).await.0.unwrap();
                sender.shutdown(Shutdown::Write).unwrap();
            });
            let (result, back) = client.recv_exact(vec![0; data.len()]).await;
            result.unwrap();
            assert!(back == data);
            sending.await;
            echo.await;
            assert_eq!(client.recv(vec![0; 1]).await.0.unwrap(), 0);
        }
    });
}

#[test]
fn a_reader_joins_and_splits_what_arrives() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        for address in addresses(&folder) {
            let (server, client) = pair(&address).await;
            let mut reader = server.reader(16);
            let early = {
                use futures_util::FutureExt;
                let mut header = [0; 4];
                let read = reader.read_exact(&mut header);
                read.now_or_never().is_some()
            };
            assert!(!early, "nothing was sent yet");
            let header = b"head".to_vec();
            let sent = client.send((header, IoVec::copy_of(&[7; 100]))).await;
            sent.0.unwrap();
            client.send(b"tail".to_vec()).await.0.unwrap();
            drop(client);
            let mut header = [0; 4];
            reader.read_exact(&mut header).await.unwrap();
            assert_eq!(&header, b"head");
            let body = reader.read_into(IoVec::zeroed(100)).await.unwrap();
            assert_eq!(&*body.into_buffer(), &[7; 100]);
            assert!(!reader.at_end().await.unwrap());
            reader.read_exact(&mut header).await.unwrap();
            assert_eq!(&header, b"tail");
            assert!(reader.at_end().await.unwrap());
            let error = reader.read_exact(&mut header).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
fn a_receive_that_is_given_up_frees_its_memory_and_leaves_the_stream() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        for address in addresses(&folder) {
            let (server, client) = pair(&address).await;
            let receiver = server.clone();
            let memory = IoVec::zeroed(10);
            let lent = memory.clone();
            let task = spawn(async move { receiver.recv(lent).await.1 });
            sleep(std::time::Duration::from_millis(2)).await;
            assert!(!memory.is_alone());
            task.cancel();
            while !memory.is_alone() {
                weft_uring::yield_now().await;
            }
            client.send(b"hello".to_vec()).await.0.unwrap();
            let (result, memory) = server.recv_exact(vec![0; 5]).await;
            result.unwrap();
            assert_eq!(memory, b"hello");
        }
    });
}

#[test]
fn a_socket_file_is_replaced_only_if_nobody_listens() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address).unwrap();
        let error = Listener::bind(&address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(
            error.to_string().contains("somebody listens there"),
            "{error}"
        );
        drop(first);
        assert!(!path.exists(), "a listener takes its file away");

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "this one left its file behind");
        let second = Listener::bind(&address).unwrap();
        Stream::connect(&address).await.unwrap();
        drop(second);

        std::fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&address).unwrap_err();
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    });
}

#[test]
fn connecting_where_nobody_listens_is_refused() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let [unix, _] = addresses(&folder);
        let error = Stream::connect(&unix).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let free = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = free.address().clone();
        drop(free);
        let error = Stream::connect(&address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_stream_that_is_shut_down_ends_its_waits() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        for address in addresses(&folder) {
            let (server, _client) = pair(&address).await;
            let receiver = server.clone();
            let waiting = spawn(async move { receiver.recv(vec![0; 10]).await.0.unwrap() });
            sleep(std::time::Duration::from_millis(2)).await;
            server.shutdown(Shutdown::Both).unwrap();
            assert_eq!(waiting.await, 0);
        }
    });
}

#[test]
fn an_executor_ends_although_receives_are_in_flight() {
    on_each(|_| async {
        let folder = tempfile::tempdir().unwrap();
        let [unix, _] = addresses(&folder);
        let (server, client) = pair(&unix).await;
        spawn(async move { server.recv(vec![0; 10]).await.1 }).detach();
        spawn(async move { weft_uring::readable(&client).await }).detach();
        weft_uring::yield_now().await;
    });
}

#[test]
fn more_operations_than_the_ring_has_places_are_all_done() {
    on_each(|_| async {
        let pairs: Vec<_> = (0..700)
            .map(|_| std::os::unix::net::UnixStream::pair().unwrap())
            .collect();
        let mut waits = Vec::new();
        let mut peers = Vec::new();
        for (ours, theirs) in pairs {
            // Half of the waits are given up again, while others stay.
            let given_up = ours.try_clone().unwrap();
            waits.push(spawn(
                async move { weft_uring::readable(&ours).await.unwrap() },
            ));
            peers.push((
                theirs,
                spawn(async move { weft_uring::readable(&given_up).await }),
            ));
        }
        sleep(std::time::Duration::from_millis(1)).await;
        for (theirs, task) in peers {
            task.cancel();
            std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        }
        for wait in waits {
            wait.await;
        }
    });
}
