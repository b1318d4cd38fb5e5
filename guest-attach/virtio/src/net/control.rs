//! The control queue.

use virtio_bindings::virtio_net as bind;

use super::NetModel;
use crate::queue::{Chain, QueueError, SplitQueue};
use crate::segments::{copy_in, copy_out, part};

/// The most bytes of a command that are looked at: the class, the command and the longest argument that matters.
const COMMAND: usize = 4;

/// What a command asks of the device's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it was accepted or refused.
    Done,
    /// Use this many queue pairs.
    Pairs(u16),
}

/// Answers one command of `chain`, which came from `queue`, and gives the chain back unpublished.
///
/// Receive modes and address filters are accepted and change nothing: a device may pass more frames than were asked
/// for (virtio 1.2, 5.1.6.5.1), and a guest's port gets only its own and group traffic.
///
/// # Errors
/// If the chain has no room for the acknowledgement.
pub fn control(
    model: &NetModel,
    queue: &mut SplitQueue,
    chain: &Chain,
) -> Result<Answer, QueueError> {
    if chain.writable_len() == 0 {
        return Err(QueueError::Incomplete {
            head: chain.head(),
            what: "room for an acknowledgement",
        });
    }
    let mut command = [0; COMMAND];
    let len = copy_out(part(chain.readable(), 0, u64::MAX), &mut command);
    let answer = answer(model, &command[..len]);
    let status = match answer {
        Some(_) => bind::VIRTIO_NET_OK,
        None => bind::VIRTIO_NET_ERR,
    };
    let last = part(chain.writable(), chain.writable_len() - 1, 1);
    copy_in(last, &[status as u8]);
    queue.push(chain.head(), chain.writable_len() as u32);
    Ok(answer.unwrap_or(Answer::Done))
}

fn answer(model: &NetModel, command: &[u8]) -> Option<Answer> {
    let (&[class, code], argument) = command.split_first_chunk()?;
    match (u32::from(class), u32::from(code), argument) {
        (bind::VIRTIO_NET_CTRL_RX, 0..=bind::VIRTIO_NET_CTRL_RX_NOBCAST, &[_, ..]) => {
            Some(Answer::Done)
        }
        (bind::VIRTIO_NET_CTRL_MAC, bind::VIRTIO_NET_CTRL_MAC_TABLE_SET, _) => Some(Answer::Done),
        (bind::VIRTIO_NET_CTRL_MQ, bind::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &[low, high, ..]) => {
            let pairs = u16::from_le_bytes([low, high]);
            (1..=model.pairs())
                .contains(&pairs)
                .then_some(Answer::Pairs(pairs))
        }
        _ => None,
    }
}
