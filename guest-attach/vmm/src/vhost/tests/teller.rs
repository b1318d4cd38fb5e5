//! A back end that tells changes of its configuration. The `vhost` crate's own back end cannot, so this one speaks the
//! protocol's messages by itself, as far as a front end that starts no ring needs them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::vhost::features::PROTOCOL;
use crate::virtio::F_VERSION_1;

const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_CONFIG: u32 = 24;
const CONFIG_CHANGE: u32 = 2;
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const HEADER_BYTES: usize = 12;

fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [request, VERSION | flags, body.len() as u32]
        .map(u32::to_ne_bytes)
        .concat();
    bytes.extend(body);
    bytes
}

/// Serves one front end. The disk has 2048 sectors when it is first asked, and 4096 after it has told that this changed.
pub(super) fn serve(path: &Path) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut channel = None;
        let mut sectors = 2048_u64;
        while let Some((request, body, file)) = receive(&mut stream) {
            let answer = match request {
                GET_FEATURES => (PROTOCOL | F_VERSION_1).to_ne_bytes().to_vec(),
                GET_PROTOCOL_FEATURES => (Protocol::BACKEND_REQ | Protocol::CONFIG)
                    .bits()
                    .to_ne_bytes()
                    .to_vec(),
                SET_BACKEND_REQ_FD => {
                    channel = file;
                    continue;
                }
                GET_CONFIG => {
                    let mut answer = body;
                    answer[12..20].copy_from_slice(&sectors.to_le_bytes());
                    answer
                }
                _ => continue,
            };
            stream.write_all(&message(request, REPLY, &answer)).unwrap();
            if request == GET_CONFIG && sectors == 2048 {
                sectors = 4096;
                channel
                    .as_mut()
                    .unwrap()
                    .write_all(&message(CONFIG_CHANGE, 0, &[]))
                    .unwrap();
            }
        }
    })
}

fn receive(stream: &mut UnixStream) -> Option<(u32, Vec<u8>, Option<File>)> {
    let mut header = [0; HEADER_BYTES];
    let (count, file) = stream.recv_with_fd(&mut header).ok()?;
    if count != HEADER_BYTES {
        return None;
    }
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; word(8) as usize];
    stream.read_exact(&mut body).ok()?;
    Some((word(0), body, file))
}
