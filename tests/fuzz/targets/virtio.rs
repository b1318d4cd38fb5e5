//! Rings and requests of a hostile guest.
//!
//! The input is the guest's memory from address 0 on: a ring of 16 with its descriptors at 0, its available ring at
//! 0x100 and its used ring at 0x200, and whatever these point at.

use std::rc::Rc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use weft_block::Info;
use weft_virtio::blk::{BlkModel, BlkOptions, Step};
use weft_virtio::net::{NetModel, NetOptions, Offloads, control};
use weft_virtio::queue::{Layout, QueueOptions, SplitQueue};
use weft_virtio::{F_EVENT_IDX, F_INDIRECT, F_VERSION_1, GuestMemory};

const MEMORY: usize = 0x8000;

const RING: Layout = Layout {
    size: 16,
    desc: 0,
    avail: 0x100,
    used: 0x200,
};

/// Requests taken off the ring at most: the available index may be any.
const REQUESTS: usize = 64;

fn queue(bytes: &[u8]) -> Option<SplitQueue> {
    let map = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).ok()?;
    map.write_slice(&bytes[..bytes.len().min(MEMORY)], GuestAddress(0))
        .ok()?;
    let options = QueueOptions {
        event_idx: true,
        indirect: true,
    };
    SplitQueue::new(Rc::new(GuestMemory::new(map)), &RING, options, 0, None).ok()
}

pub(super) fn blk(bytes: &[u8]) {
    let Some(mut queue) = queue(bytes) else {
        return;
    };
    let mut info = Info::new(1 << 20, 512);
    info.discard = true;
    let mut model = BlkModel::new(info.clone(), BlkOptions::default());
    model.acknowledge(model.features());
    for _ in 0..REQUESTS {
        let Ok(Some(chain)) = queue.pop() else {
            return;
        };
        assert!(chain.readable_len() + chain.writable_len() <= u64::from(u32::MAX));
        let used = match model.parse(&chain, queue.memory()) {
            Err(_) => return,
            Ok(Step::Answered(used)) => used,
            Ok(Step::Submit(request, reply)) => {
                let result = request.check(&info);
                reply.finish(&result)
            }
        };
        queue.push(used.head, used.written);
        queue.publish();
    }
}

pub(super) fn net_control(bytes: &[u8]) {
    let Some(mut queue) = queue(bytes) else {
        return;
    };
    let options = NetOptions {
        mac: [0x52, 0x54, 0, 0, 0, 1],
        mtu: None,
        pairs: 2,
        offloads: Offloads::from_bits(0),
    };
    let mut model = NetModel::new(options);
    model.acknowledge(F_VERSION_1 | F_INDIRECT | F_EVENT_IDX);
    for _ in 0..REQUESTS {
        let Ok(Some(chain)) = queue.pop() else {
            return;
        };
        if control(&model, &mut queue, &chain).is_err() {
            return;
        }
        queue.publish();
    }
}
