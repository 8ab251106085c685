//! A registry with one small image, on a loopback port of the engine's network: as much of the protocol as a pull needs.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the layer, uncompressed and incompressible: enough for several reports of progress.
const LAYER: usize = 6 << 20;

pub(crate) struct Registry {
    pub(crate) port: u16,
}

struct Content {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Vec<u8>,
    config_digest: String,
    layer_digest: String,
    login: Option<String>,
    /// After each part of a large body.
    pause: Duration,
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    format!("sha256:{}", String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap())
}

/// A tar archive of one file, by hand.
fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

impl Registry {
    /// Serves `team/app:1` until the process ends; call in the engine's network. `login`: `Basic …` that is asked for.
    #[allow(dead_code)] // Not each of the crates that share this file has such a test.
    pub(crate) fn start(login: Option<&str>) -> Self {
        Self::serve(login, Duration::from_millis(40))
    }

    fn serve(login: Option<&str>, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Another layer for each registry: an engine that has one fetches none of its kind again, and shows no progress.
        let mut state = 0x9e37_79b9 ^ u32::from(port);
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .take(LAYER)
        .collect();
        // Registries serve layers compressed or not; an uncompressed one needs no compressor here.
        let layer = tar_of("noise", &noise);
        let layer_digest = sha256(&layer);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/noise"]}},"rootfs":{{"type":"layers","diff_ids":["{layer_digest}"]}}}}"#
        )
        .into_bytes();
        let config_digest = sha256(&config);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":{},"digest":"{config_digest}"}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","size":{},"digest":"{layer_digest}"}}]}}"#,
            config.len(),
            layer.len()
        )
        .into_bytes();
        let login = login.map(str::to_owned);
        let content =
            Arc::new(Content { config, layer, manifest, config_digest, layer_digest, login, pause });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = Arc::clone(&content);
                std::thread::spawn(move || while answer(&stream, &content).is_some() {});
            }
        });
        Self { port }
    }
}

/// Where a test is to see more than the end of it: a dozen pauses.
#[allow(dead_code)] // Not each of the crates that share this file has such a test.
pub(crate) fn slow(pause: Duration) -> Registry {
    Registry::serve(None, pause)
}

fn answer(stream: &TcpStream, content: &Content) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut login = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            login = Some(value.trim().to_owned());
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let mut out = stream;
    if content.login.is_some() && login != content.login {
        let head =
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\nContent-Length: 0\r\n\r\n";
        return out.write_all(head.as_bytes()).ok();
    }
    let blob = |digest: &str| path == format!("/v2/team/app/blobs/{digest}");
    let manifest = "application/vnd.docker.distribution.manifest.v2+json";
    let (kind, body): (&str, &[u8]) = match path {
        "/v2/" => ("application/json", b"{}"),
        "/v2/team/app/manifests/1" => (manifest, &content.manifest),
        _ if path == format!("/v2/team/app/manifests/{}", sha256(&content.manifest)) => {
            (manifest, &content.manifest)
        }
        _ if blob(&content.config_digest) => ("application/octet-stream", &content.config),
        _ if blob(&content.layer_digest) => ("application/octet-stream", &content.layer),
        _ => {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            let head = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json";
            return write!(out, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok();
        }
    };
    let digest = sha256(body);
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .ok()?;
    if method == "HEAD" {
        return Some(());
    }
    // A large body comes in parts, so that progress is reported.
    for part in body.chunks(512 * 1024) {
        out.write_all(part).ok()?;
        if body.len() > part.len() {
            std::thread::sleep(content.pause);
        }
    }
    Some(())
}
