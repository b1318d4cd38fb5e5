//! What an ordinary user's process does to have a network: a program of its own, for it must have a single thread.

use weft_netio::link::Links;
use weft_netio::namespace::{Possible, enter_rootless, possible};
use weft_netio::plan::{self, Observed};
use weft_netio::{InterfaceName, Mode, NetworkName, NetworkSpec, Result, Tap, TapOptions};

fn main() -> anyhow::Result<()> {
    match possible() {
        Possible::Rootless => {}
        Possible::Nothing(why) => anyhow::bail!(why),
        Possible::Here => anyhow::bail!("an ordinary user has CAP_NET_ADMIN"),
    }
    let told = |e: weft_netio::Error| anyhow::anyhow!("{}", e.sentence());
    enter_rootless().map_err(told)?;
    anyhow::ensure!(possible() == Possible::Here, "root in its own namespace");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(network()).map_err(told)
}

/// A network from nothing to nothing, with a TAP device as its port in between.
async fn network() -> Result<()> {
    let links = Links::open()?;
    assert!(links.expect("lo").await?.up, "the loopback");
    let subnet = "10.91.0.0/24".parse().expect("a subnet");
    let spec = NetworkSpec::new(NetworkName::new("lab")?, subnet, Mode::Nat);
    let made = plan::set_up(&spec, &Observed::read_for(&links, &spec.name).await?)?;
    made.apply(&links).await?;
    let port = InterfaceName::new("tap0")?;
    let tap = Tap::open(&port, &TapOptions::default())?;
    links.set_bridge(&port, Some(&spec.bridge)).await?;
    drop(tap);
    let gone = plan::tear_down(&spec.name, &Observed::read(&links).await?)?;
    gone.apply(&links).await
}
