//! Another name for the backing file: after a cut it is the old one or the new one, however long they are.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::{BlockDevice, Info};
use weft_qcow2::format::Backing;
use weft_qcow2::{Image, OpenOptions, read_header};
use weft_sim::{Executor, PowerCut, PowerSupply, for_each_seed};

use super::kit::Form;

fn name(random: &mut ChaCha8Rng) -> Option<Backing> {
    let len = match random.random_range(0..4) {
        0 => return None,
        1 => random.random_range(1..10),
        _ => random.random_range(1..1024),
    };
    let letter = char::from(random.random_range(b'a'..=b'z'));
    let format = ["raw", "qcow2"][random.random_range(0..2)];
    Some(Backing {
        path: std::iter::repeat_n(letter, len).collect(),
        format: random.random_bool(0.7).then(|| format.into()),
    })
}

fn cut(seed: u64) {
    let form = Form::number(1 + seed % 3 + 4 * (seed / 3 % 7));
    let supply = PowerSupply::new(seed);
    supply.set_tearing(false);
    let file: Arc<dyn BlockDevice> = Arc::new(PowerCut::new(&supply, Info::new(0, 512)));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut old, mut new) = (None, None);
    for round in 0..4 {
        let executor = Executor::new(seed ^ round << 32);
        executor.block_on(async {
            let spawner = executor.spawner();
            if round == 0 {
                drop(form.make(Arc::clone(&file), &spawner).await);
            }
            let header = read_header(&*file, &spawner).await.expect("it is read");
            let found = header.backing();
            assert!(
                found == old || found == new,
                "{found:?} is neither {old:?} nor {new:?}"
            );
            old = found;
            let options = OpenOptions {
                without_backing: true,
                ..OpenOptions::default()
            };
            let image = Image::open(Arc::clone(&file), options, &spawner)
                .await
                .expect("it opens");
            supply.cut_after(random.random_range(0..30));
            loop {
                new = name(&mut random);
                if image.set_backing(new.clone(), &spawner).await.is_err() {
                    break;
                }
                old.clone_from(&new);
            }
            assert!(!supply.is_on(), "only the cut ends it");
        });
        supply.power_on();
    }
}

#[test]
fn a_cut_leaves_the_old_name_or_the_new_one() {
    for_each_seed(150, cut);
}
