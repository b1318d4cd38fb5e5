//! What each command asks of the daemon and how the answer is shown. Files are named after the nouns.

mod bitmap;
mod console;
mod disk;
mod export;
pub(crate) mod image;
mod lab;
mod live;
mod lv;
mod net;
mod raid;
mod status;
mod vg;
mod vm;
mod vpn;

use weft_service::api::{Error, ErrorKind, Result};
use weft_service::storage::disks::ImageWord;

use crate::args::{Command, ImageCommand};
use crate::client::Client;
use crate::render::Output;

/// An answer without contents.
type Nothing = serde_json::Value;

pub(crate) async fn run(command: Command, output: &Output) -> Result<()> {
    if let Command::Daemon { .. } = command {
        return stop_daemon(output).await;
    }
    let client = Client::connect().await?;
    match command {
        Command::Up { file } => lab::up(&client, output, &file).await,
        Command::Down { file } => lab::down(&client, output, &file).await,
        Command::Plan { file } => lab::plan(&client, output, &file).await,
        Command::Status { watch } => status::run(&client, output, watch).await,
        Command::Disk(command) => disk::run(&client, output, command).await,
        Command::Raid(command) => raid::run(&client, output, command).await,
        Command::Vg(command) => vg::run(&client, output, command).await,
        Command::Lv(command) => lv::run(&client, output, command).await,
        Command::Image(ImageCommand::Live(command)) => live::run(&client, output, command).await,
        Command::Export(command) => export::run(&client, output, command).await,
        Command::Net(command) => net::run(&client, output, command).await,
        Command::Vpn(command) => vpn::run(&client, output, command).await,
        Command::Vm(command) => vm::run(&client, output, command).await,
        Command::Daemon { .. }
        | Command::Image(_)
        | Command::Completions { .. }
        | Command::Manual { .. }
        | Command::Machine { .. } => unreachable!("these need no daemon"),
    }
}

async fn stop_daemon(output: &Output) -> Result<()> {
    if let Some(client) = Client::find().await? {
        client.post::<Nothing>("/v1/daemon/stop", &()).await?;
        client.wait_until_gone().await?;
        output.say("the daemon has stopped; machines run on");
    } else {
        output.say("no daemon runs");
    }
    output.json(&serde_json::json!({}));
    Ok(())
}

/// What a DISK on the command line means: a path if it looks like one or exists, otherwise a name of weft's.
fn disk_argument(text: &str) -> Result<String> {
    if ImageWord::is_meant_by(text) {
        let word = text.parse::<ImageWord>()?.map(disk_argument)?;
        return Ok(word.to_string());
    }
    let is_path = text.starts_with(['/', '.']) || std::fs::symlink_metadata(text).is_ok();
    if text.contains("://") || !is_path {
        return Ok(text.to_owned());
    }
    absolute(std::path::Path::new(text))
}

fn disk_arguments(texts: &[String]) -> Result<Vec<String>> {
    texts.iter().map(|text| disk_argument(text)).collect()
}

/// `path` as the daemon, which has a folder of its own, must be told.
fn absolute(path: &std::path::Path) -> Result<String> {
    let name = path.display().to_string();
    let absolute = std::path::absolute(path)
        .map_err(|error| Error::from_io(&name, &format!("{name} is no path"), &error))?;
    // `a/../b` and links lead to one name for one disk; a file that is not there yet has only its folder resolved.
    let resolved = absolute.canonicalize().or_else(|_| {
        let folder = absolute.parent().unwrap_or(&absolute).canonicalize()?;
        Ok::<_, std::io::Error>(match absolute.file_name() {
            Some(file) => folder.join(file),
            None => folder,
        })
    });
    let resolved = resolved.unwrap_or(absolute);
    resolved.into_os_string().into_string().map_err(|path| {
        let path = path.to_string_lossy().into_owned();
        Error::new(
            ErrorKind::Invalid,
            path.clone(),
            format!("{path} is not UTF-8"),
        )
    })
}

/// An address with its socket's path made absolute.
fn address_argument(text: &str) -> Result<String> {
    match text.strip_prefix("unix:") {
        Some(path) => Ok(format!("unix:{}", absolute(std::path::Path::new(path))?)),
        None => Ok(text.to_owned()),
    }
}

/// The two parts of VG/LV.
fn volume_argument(text: &str) -> Result<(&str, &str)> {
    match text.split_once('/') {
        Some((vg, lv)) if !vg.is_empty() && !lv.is_empty() && !lv.contains('/') => Ok((vg, lv)),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            text,
            format!("{text:?} is no volume; write it as VG/LV"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_paths_or_names() {
        assert_eq!(disk_argument("tank-of-no-file").unwrap(), "tank-of-no-file");
        assert_eq!(
            disk_argument("nbd://127.0.0.1:1/x").unwrap(),
            "nbd://127.0.0.1:1/x"
        );
        assert!(disk_argument("./a").unwrap().starts_with('/'));
        assert_eq!(disk_argument("/nowhere/at/all").unwrap(), "/nowhere/at/all");
        let image = disk_argument("qcow2:./a,allow=./b,allow=any").unwrap();
        assert!(image.starts_with("qcow2:/") && image.contains(",allow=/"));
        assert_eq!(disk_argument("qcow2:vg/lv").unwrap(), "qcow2:vg/lv");
        assert!(disk_argument("qcow2:").is_err());
    }

    #[test]
    fn a_volume_has_two_parts() {
        assert_eq!(volume_argument("vg/lv").unwrap(), ("vg", "lv"));
        for wrong in ["vg", "vg/", "/lv", "a/b/c"] {
            assert!(volume_argument(wrong).is_err(), "{wrong}");
        }
    }
}
