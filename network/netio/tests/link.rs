//! Links in a namespace of the test's own. Without the right to make one there is nothing to test.

use std::future::Future;

use weft_netio::link::{Links, Owner};
use weft_netio::{ErrorKind, InterfaceName, Namespace, Tap, TapOptions, forwarding};
use weft_wire::{Ipv4Cidr, MacAddress};

/// Runs `test` in a new namespace, on a runtime of its own.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let namespace = match Namespace::create() {
        Ok(namespace) => namespace,
        Err(e) if e.kind() == ErrorKind::Denied => {
            eprintln!("skipped: {}", e.sentence());
            return;
        }
        Err(e) => panic!("{}", e.sentence()),
    };
    let run = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts")
            .block_on(test());
    };
    namespace.run(run).expect("the thread enters");
}

fn name(name: &str) -> InterfaceName {
    InterfaceName::new(name).expect("a good name")
}

#[test]
fn a_bridge_is_made_marked_and_deleted() {
    in_namespace(|| async {
        let links = Links::open().unwrap();
        let mac = MacAddress::derived("weft:lab");
        let owner = Owner::bridge("lab");
        links
            .create_bridge(&name("br0"), mac, Some(1400), &owner)
            .await
            .unwrap();
        let bridge = links.expect("br0").await.unwrap();
        assert_eq!(bridge.kind, "bridge");
        assert_eq!(
            (bridge.mac, bridge.mtu, bridge.up),
            (Some(mac), 1400, false)
        );
        assert_eq!(bridge.owner(), Some(owner.clone()));
        let again = links
            .create_bridge(&name("br0"), mac, None, &owner)
            .await
            .unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Foreign, "{}", again.sentence());

        let address: Ipv4Cidr = "10.7.0.1/24".parse().unwrap();
        for _ in 0..2 {
            links
                .add_address(&name("br0"), address.into())
                .await
                .unwrap();
        }
        links.set_up(&name("br0"), true).await.unwrap();
        let addresses = links.addresses().await.unwrap();
        assert!(
            addresses
                .iter()
                .any(|found| found.index == bridge.index && found.address == address)
        );
        let routes = links.routes().await.unwrap();
        let subnet = routes
            .iter()
            .find(|route| route.index == Some(bridge.index))
            .unwrap();
        assert_eq!(subnet.destination, address.network());
        for _ in 0..2 {
            links
                .remove_address(&name("br0"), address.into())
                .await
                .unwrap();
        }
        assert!(links.routes().await.unwrap().is_empty());

        let stranger = links
            .delete(&name("br0"), &Owner::bridge("other"))
            .await
            .unwrap_err();
        assert_eq!(
            stranger.kind(),
            ErrorKind::Foreign,
            "{}",
            stranger.sentence()
        );
        for _ in 0..2 {
            links.delete(&name("br0"), &owner).await.unwrap();
        }
        assert_eq!(links.link("br0").await.unwrap(), None);
        assert_eq!(
            links.expect("br0").await.unwrap_err().sentence(),
            "link br0 does not exist"
        );
    });
}

#[test]
fn a_tap_device_is_a_port() {
    in_namespace(|| async {
        let links = Links::open().unwrap();
        let mac = MacAddress::derived("weft:lab");
        links
            .create_bridge(&name("br0"), mac, Some(1400), &Owner::bridge("lab"))
            .await
            .unwrap();
        let tap = Tap::open(&name("tap0"), &TapOptions::default()).unwrap();
        links
            .set_bridge(&name("tap0"), Some(&name("br0")))
            .await
            .unwrap();
        links.set_up(&name("tap0"), true).await.unwrap();
        links.set_mtu(&name("tap0"), 1450).await.unwrap();
        links
            .set_mac(&name("tap0"), MacAddress([2, 0, 0, 0, 0, 7]))
            .await
            .unwrap();
        let bridge = links.expect("br0").await.unwrap();
        assert_eq!(bridge.mtu, 1400, "a bridge keeps its MTU whatever joins it");
        let port = links.expect("tap0").await.unwrap();
        assert_eq!(
            (port.bridge, port.mtu, port.up),
            (Some(bridge.index), 1450, true)
        );
        assert_eq!((port.kind.as_str(), port.owner()), ("tun", None));
        assert_eq!(
            bridge.mac,
            Some(mac),
            "a bridge keeps its address whatever joins it"
        );
        links.set_bridge(&name("tap0"), None).await.unwrap();
        assert_eq!(links.expect("tap0").await.unwrap().bridge, None);
        drop(tap);
    });
}

#[test]
fn a_veth_pair_joins_two_namespaces() {
    in_namespace(|| async {
        let other = Namespace::create().unwrap();
        let links = Links::open().unwrap();
        links
            .create_veth(&name("here"), &name("there"), Some(&other))
            .await
            .unwrap();
        assert!(links.link("there").await.unwrap().is_none());
        assert_eq!(links.expect("here").await.unwrap().kind, "veth");
        let inside = other
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap())
            .unwrap();
        assert!(inside.contains("there:"));
    });
}

#[test]
fn a_named_namespace_stays_until_its_name_is_removed() {
    in_namespace(|| async {
        let name = format!("weft-netio-{}", std::process::id());
        let namespace = Namespace::create_named(&name).unwrap();
        assert!(Namespace::names().unwrap().contains(&name));
        let again = Namespace::create_named(&name).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Busy, "{}", again.sentence());
        drop(namespace);
        let links = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let found = Namespace::open_named(&name).unwrap();
        assert!(found.run(links).unwrap().contains("lo:"));
        Namespace::remove_named(&name).unwrap();
        assert!(!Namespace::names().unwrap().contains(&name));
        let gone = Namespace::remove_named(&name).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{}", gone.sentence());
    });
}

#[test]
fn forwarding_is_the_namespaces_own() {
    in_namespace(|| async {
        forwarding::set(false).unwrap();
        assert!(!forwarding::is_on().unwrap());
        forwarding::set(true).unwrap();
        assert!(forwarding::is_on().unwrap());
    });
}
