//! The rules of a network, from what it is to be.

use std::borrow::Cow;

use nftables::expr::{
    CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField,
    Prefix,
};
use nftables::schema::{Chain, NfListObject, Rule};
use nftables::stmt::{Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use weft_wire::Ipv4Cidr;

use super::Ruleset;
use crate::InterfaceName;
use crate::link::LINK_GROUP;
use crate::network::{Mode, NetworkSpec, PortForward};

type Expr = Expression<'static>;
type Stmt = Statement<'static>;

const GUARD: &str = "guard";
const FORWARD: &str = "forward";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";

/// The rules of a network. They follow from `spec` alone.
///
/// In every mode the guests' own traffic passes, and packets with a source that is not of the subnet are dropped.
/// *Isolated*: nothing else is forwarded. *Nat*: guests reach everything but other networks of weft's, under the
/// host's addresses; answers come back, port forwards come in, the rest is dropped. *Routed*: all passes.
/// In every mode guests reach what is behind the network's tunnels.
/// Only IPv4 is forwarded.
pub fn network_rules(spec: &NetworkSpec) -> Ruleset {
    let mut table = Builder::new(spec.name.table());
    table.chain(GUARD, NfChainType::Filter, NfHook::Prerouting, -300);
    table.chain(FORWARD, NfChainType::Filter, NfHook::Forward, 0);
    table.rule(GUARD, "sources of this subnet alone", foreign_source(spec));
    forward_rules(&mut table, spec);
    let nat = spec.mode == Mode::Nat;
    if nat && !spec.forwards.is_empty() {
        port_forwards(&mut table, spec);
    }
    if nat || spec.tunnels.iter().any(|way| way.masquerade) {
        // The last chain: the kernel lists them in the order in which they were made.
        table.chain(POSTROUTING, NfChainType::NAT, NfHook::Postrouting, 100);
        tunnel_translation(&mut table, spec);
    }
    if nat {
        let subnet = spec.address.network();
        let outwards = vec![
            source_in(subnet, Operator::EQ),
            destination_in(subnet, Operator::NEQ),
            Stmt::Masquerade(None),
        ];
        table.rule(
            POSTROUTING,
            "guests go out under the host's address",
            outwards,
        );
    }
    table.build()
}

/// Ports of the host that lead to guests, for who comes from outside and for the host itself.
fn port_forwards(table: &mut Builder, spec: &NetworkSpec) {
    table.chain(PREROUTING, NfChainType::NAT, NfHook::Prerouting, -100);
    table.chain(OUTPUT, NfChainType::NAT, NfHook::Output, -100);
    for forward in &spec.forwards {
        for chain in [PREROUTING, OUTPUT] {
            let mut rule = forward_match(forward, chain);
            rule.push(Stmt::DNAT(Some(NAT {
                addr: Some(text(forward.to.to_string())),
                family: Some(NATFamily::IP),
                port: Some(Expr::Number(forward.to_port.into())),
                flags: None,
            })));
            table.rule(chain, "port forward", rule);
        }
    }
}

/// The rules of a host that hides what it forwards to `out` behind its own address there.
pub fn masquerade_rules(out: &InterfaceName) -> Ruleset {
    let mut table = Builder::new(format!("weft_hide_{out}"));
    table.chain(POSTROUTING, NfChainType::NAT, NfHook::Postrouting, 100);
    let rule = vec![name(MetaKey::Oifname, out.as_str()), Stmt::Masquerade(None)];
    table.rule(POSTROUTING, "all go out under the host's address", rule);
    table.build()
}

fn forward_rules(table: &mut Builder, spec: &NetworkSpec) {
    let bridge = spec.bridge.as_str();
    let from = || name(MetaKey::Iifname, bridge);
    let to = || name(MetaKey::Oifname, bridge);
    let mut rule = |comment, statements| table.rule(FORWARD, comment, statements);
    rule("within the network", vec![from(), to(), accept()]);
    tunnel_rules(table, spec);
    let mut rule = |comment, statements| table.rule(FORWARD, comment, statements);
    if spec.mode == Mode::Isolated {
        rule("isolated", vec![from(), drop()]);
        rule("isolated", vec![to(), drop()]);
        return;
    }
    rule("IPv4 alone is forwarded", vec![from(), ipv6(), drop()]);
    rule("IPv4 alone is forwarded", vec![to(), ipv6(), drop()]);
    if spec.mode == Mode::Routed {
        return;
    }
    let others = || equal(meta(MetaKey::Oifgroup), Expr::Number(LINK_GROUP));
    rule("other networks are apart", vec![from(), others(), drop()]);
    rule("answers come back", vec![to(), known(), accept()]);
    if !spec.forwards.is_empty() {
        let translated = ct("status", text("dnat"));
        rule("port forwards come in", vec![to(), translated, accept()]);
    }
    rule("nothing else comes in", vec![to(), drop()]);
}

/// What passes between guests and the network's tunnels.
fn tunnel_rules(table: &mut Builder, spec: &NetworkSpec) {
    let bridge = spec.bridge.as_str();
    for way in &spec.tunnels {
        let tunnel = way.interface.as_str();
        let out = || {
            vec![
                name(MetaKey::Iifname, bridge),
                name(MetaKey::Oifname, tunnel),
            ]
        };
        let back = || {
            vec![
                name(MetaKey::Iifname, tunnel),
                name(MetaKey::Oifname, bridge),
            ]
        };
        let rule = |mut statements: Vec<Stmt>, rest: Vec<Stmt>| {
            statements.extend(rest);
            statements
        };
        let mut add = |comment, statements| table.rule(FORWARD, comment, statements);
        add("IPv4 alone is forwarded", rule(out(), vec![ipv6(), drop()]));
        add(
            "IPv4 alone is forwarded",
            rule(back(), vec![ipv6(), drop()]),
        );
        add(
            "guests reach the tunnel's peers",
            rule(out(), vec![accept()]),
        );
        if way.masquerade {
            add("answers come back", rule(back(), vec![known(), accept()]));
            add("nothing else comes in", rule(back(), vec![drop()]));
        } else {
            add("peers reach guests", rule(back(), vec![accept()]));
        }
    }
}

/// Under which address guests go through the network's tunnels.
fn tunnel_translation(table: &mut Builder, spec: &NetworkSpec) {
    for way in &spec.tunnels {
        let tunnel = name(MetaKey::Oifname, way.interface.as_str());
        let from = source_in(spec.address.network(), Operator::EQ);
        let (comment, verdict) = match way.masquerade {
            true => (
                "guests go under the tunnel's address",
                Stmt::Masquerade(None),
            ),
            false => ("guests keep their addresses in the tunnel", accept()),
        };
        table.rule(POSTROUTING, comment, vec![from, tunnel, verdict]);
    }
}

/// What belongs to a connection that began before.
fn known() -> Stmt {
    ct(
        "state",
        Expr::List(vec![text("established"), text("related")]),
    )
}

/// What a guest sends under an address that is none of the subnet, to the host or through it; 0.0.0.0 is a guest that
/// has none yet.
fn foreign_source(spec: &NetworkSpec) -> Vec<Stmt> {
    vec![
        name(MetaKey::Iifname, spec.bridge.as_str()),
        source_in(spec.address.network(), Operator::NEQ),
        compare(field("ip", "saddr"), Operator::NEQ, text("0.0.0.0")),
        drop(),
    ]
}

/// Packets for a forwarded port of one of the host's addresses. The host's own packets to its loopback stay there: an
/// answer from the guest could not find back.
fn forward_match(forward: &PortForward, chain: &str) -> Vec<Stmt> {
    let local = Expr::Named(NamedExpression::Fib(Fib {
        result: FibResult::Type,
        flags: [FibFlag::Daddr].into_iter().collect(),
    }));
    let mut rule = vec![equal(local, text("local"))];
    if chain == OUTPUT {
        let loopback = Ipv4Cidr::new([127, 0, 0, 0].into(), 8).expect("8 is a prefix");
        rule.push(destination_in(loopback, Operator::NEQ));
    }
    let port = field(forward.transport.name(), "dport");
    rule.push(equal(port, Expr::Number(forward.port.into())));
    rule
}

struct Builder {
    table: String,
    chains: Vec<NfListObject<'static>>,
    rules: Vec<NfListObject<'static>>,
}

impl Builder {
    fn new(table: String) -> Self {
        Self {
            table,
            chains: Vec::new(),
            rules: Vec::new(),
        }
    }

    fn chain(&mut self, name: &'static str, kind: NfChainType, hook: NfHook, priority: i32) {
        self.chains.push(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: self.table.clone().into(),
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
    }

    fn rule(&mut self, chain: &'static str, comment: &'static str, statements: Vec<Stmt>) {
        self.rules.push(NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: self.table.clone().into(),
            chain: chain.into(),
            expr: Cow::Owned(statements),
            comment: Some(comment.into()),
            ..Rule::default()
        }));
    }

    /// Chains first, then the rules chain by chain: the order in which `nft` lists them.
    fn build(self) -> Ruleset {
        let place = |object: &serde_json::Value| {
            let chain = &object["rule"]["chain"];
            [GUARD, FORWARD, PREROUTING, OUTPUT, POSTROUTING]
                .iter()
                .position(|name| chain == name)
        };
        let value = |object: &NfListObject<'_>| {
            serde_json::to_value(object).expect("objects of the schema are JSON")
        };
        let mut objects: Vec<_> = self.chains.iter().chain(&self.rules).map(value).collect();
        // Stable, and chains (no place) come first.
        objects.sort_by_key(place);
        Ruleset {
            table: self.table,
            objects,
        }
    }
}

fn text(text: impl Into<Cow<'static, str>>) -> Expr {
    Expr::String(text.into())
}

fn meta(key: MetaKey) -> Expr {
    Expr::Named(NamedExpression::Meta(Meta { key }))
}

fn field(protocol: &'static str, field: &'static str) -> Expr {
    Expr::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

fn compare(left: Expr, op: Operator, right: Expr) -> Stmt {
    Stmt::Match(Match { left, right, op })
}

fn equal(left: Expr, right: Expr) -> Stmt {
    compare(left, Operator::EQ, right)
}

fn name(key: MetaKey, interface: &str) -> Stmt {
    equal(meta(key), text(interface.to_owned()))
}

fn ipv6() -> Stmt {
    equal(meta(MetaKey::Nfproto), text("ipv6"))
}

fn ct(key: &'static str, value: Expr) -> Stmt {
    let left = Expr::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }));
    compare(left, Operator::IN, value)
}

fn source_in(subnet: Ipv4Cidr, op: Operator) -> Stmt {
    compare(field("ip", "saddr"), op, prefix(subnet))
}

fn destination_in(subnet: Ipv4Cidr, op: Operator) -> Stmt {
    compare(field("ip", "daddr"), op, prefix(subnet))
}

fn prefix(subnet: Ipv4Cidr) -> Expr {
    Expr::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(text(subnet.address().to_string())),
        len: subnet.prefix().into(),
    }))
}

fn accept() -> Stmt {
    Stmt::Accept(None)
}

fn drop() -> Stmt {
    Stmt::Drop(None)
}
