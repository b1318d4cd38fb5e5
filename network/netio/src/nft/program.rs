//! The program `nft`.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use nftables::helper::{
    DEFAULT_ARGS, NftablesError, apply_ruleset_raw_async, get_current_ruleset_raw_async,
};
use serde_json::{Value, json};

use super::Ruleset;
use crate::{Error, ErrorKind, Result};

/// What starts the name of every table of weft's.
const PREFIX: &str = "weft_";
const FAMILY: &str = "inet";
const PROGRAM: &str = "nft";
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// A base chain of somebody else's that drops what no rule of it accepts, and so may stop what weft lets pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocking {
    /// Family and name of its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// `forward` or `input`.
    pub hook: String,
}

/// Puts the rules in force, in place of all that the table held before, as one transaction.
pub async fn replace(rules: &Ruleset) -> Result<()> {
    let table = json!({"table": {"family": FAMILY, "name": rules.table}});
    // Adding first makes the deletion succeed whether or not there is a table.
    let mut commands = vec![
        json!({"add": table}),
        json!({"delete": table}),
        json!({"add": table}),
    ];
    commands.extend(rules.objects.iter().map(|object| json!({"add": object})));
    apply(
        commands,
        &format!("setting the rules of table {}", rules.table),
    )
    .await
}

/// Deletes the table, if it is there.
pub async fn delete(table: &str) -> Result<()> {
    let object = json!({"table": {"family": FAMILY, "name": table}});
    let commands = vec![json!({"add": object}), json!({"delete": object})];
    apply(commands, &format!("deleting the rules of table {table}")).await
}

/// What the table holds, if it is there.
pub async fn list(table: &str) -> Result<Option<Ruleset>> {
    let listed = read(
        &["list", "table", FAMILY, table],
        &format!("listing table {table}"),
    )
    .await;
    let Some(objects) = absent(listed)? else {
        return Ok(None);
    };
    let objects = objects
        .into_iter()
        .filter(|object| object.get("chain").or(object.get("rule")).is_some())
        .map(without_handles)
        .collect();
    Ok(Some(Ruleset {
        table: table.into(),
        objects,
    }))
}

/// The names of all tables of weft's.
pub async fn tables() -> Result<Vec<String>> {
    let objects = read(&["list", "tables"], "listing tables of rules").await?;
    let ours = |object: &Value| {
        let table = &object["table"];
        let name = table["name"].as_str()?;
        (table["family"] == FAMILY && name.starts_with(PREFIX)).then(|| name.to_owned())
    };
    Ok(objects.iter().filter_map(ours).collect())
}

/// Chains of others that may stop what weft lets pass.
pub async fn blocking_chains() -> Result<Vec<Blocking>> {
    let objects = read(&["list", "chains"], "listing chains of rules").await?;
    Ok(objects.iter().filter_map(blocking).collect())
}

fn blocking(object: &Value) -> Option<Blocking> {
    let chain = &object["chain"];
    let part = |key: &str| chain[key].as_str();
    let (family, table, hook) = (part("family")?, part("table")?, part("hook")?);
    let foreign = !table.starts_with(PREFIX);
    let reaches = ["ip", FAMILY].contains(&family) && ["forward", "input"].contains(&hook);
    (foreign && reaches && part("policy")? == "drop").then(|| Blocking {
        table: format!("{family} {table}"),
        chain: part("name").unwrap_or_default().to_owned(),
        hook: hook.to_owned(),
    })
}

/// Handles are the kernel's numbers, which differ each time.
fn without_handles(mut object: Value) -> Value {
    for kind in ["chain", "rule"] {
        if let Some(Value::Object(fields)) = object.get_mut(kind) {
            fields.remove("handle");
        }
    }
    object
}

/// Where `nft` is. The folders of system programs are searched too, for an ordinary user's PATH leaves them out.
fn program() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(Into::into));
    folders
        .map(|folder| folder.join(PROGRAM))
        .find(|program| Path::new(program).is_file())
        .map_or_else(|| PROGRAM.into(), Into::into)
}

async fn apply(commands: Vec<Value>, doing: &str) -> Result<()> {
    let payload = json!({"nftables": commands}).to_string();
    apply_ruleset_raw_async(&payload, Some(&program()), DEFAULT_ARGS)
        .await
        .map_err(|e| error(doing, e))?;
    Ok(())
}

async fn read(arguments: &[&str], doing: &str) -> Result<Vec<Value>> {
    let text = get_current_ruleset_raw_async(Some(&program()), arguments.iter())
        .await
        .map_err(|e| error(doing, e))?;
    let unreadable = || Error::new(ErrorKind::Io, format!("{doing}: nft's answer is no JSON"));
    let mut answer: Value = serde_json::from_str(&text).map_err(|_| unreadable())?;
    match answer["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Err(unreadable()),
    }
}

/// That a table is not there is an answer, not an error.
fn absent<T>(listed: Result<T>) -> Result<Option<T>> {
    match listed {
        Ok(objects) => Ok(Some(objects)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn error(doing: &str, error: NftablesError) -> Error {
    match error {
        NftablesError::NftExecution { inner, .. } if inner.kind() == io::ErrorKind::NotFound => {
            Error::new(
                ErrorKind::MissingProgram,
                "networks need the program nft, which is not installed: install the package nftables",
            )
        }
        NftablesError::NftFailed { stderr, stdout, .. } => {
            let said = if stderr.trim().is_empty() {
                &stdout
            } else {
                &stderr
            };
            let mut lines = said.lines().filter(|line| !line.trim().is_empty());
            let first = lines.next().unwrap_or("it gave no reason");
            let kind = if said.contains("Operation not permitted") {
                ErrorKind::Denied
            } else if said.contains("No such file or directory") {
                ErrorKind::NotFound
            } else {
                ErrorKind::Io
            };
            Error::new(kind, doing)
                .with_source(first.rsplit("Error: ").next().unwrap_or(first).to_owned())
        }
        other => Error::new(ErrorKind::Io, doing).with_source(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_chains_that_may_stop_guests() {
        let chain = |family: &str, table: &str, hook: &str, policy: &str| json!({"chain": {"family": family, "table": table, "name": "FORWARD", "hook": hook, "policy": policy}});
        assert_eq!(
            blocking(&chain("ip", "filter", "forward", "drop")),
            Some(Blocking {
                table: "ip filter".into(),
                chain: "FORWARD".into(),
                hook: "forward".into(),
            })
        );
        for harmless in [
            chain("ip", "filter", "forward", "accept"),
            chain("ip6", "filter", "forward", "drop"),
            chain("ip", "filter", "output", "drop"),
            chain("inet", "weft_lab", "forward", "drop"),
            json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER"}}),
        ] {
            assert_eq!(blocking(&harmless), None);
        }
    }
}
