//! Static sites.

use std::path::Path;

use skep_edge::Limits;
use skep_model::{Framework, Prefix, Source};

use crate::client::Answer;
use crate::world::{Setup, World, spec};

async fn site() -> (World, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("index.html", b"<h1>home</h1>");
    write("sub/index.html", b"sub");
    write("empty/.keep", b"");
    write("a b.css", b"body {}");
    write("large.bin", &(0..1_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    write("zero.txt", b"");
    write("skep.toml", b"secret");
    write(".env", b"secret");
    write(".git/config", b"secret");
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.txt"), "secret").unwrap();
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
    link(&outside.path().join("secret.txt"), "leak.txt");
    link(outside.path(), "leak");
    link(Path::new("../../../../etc/hostname"), "up.txt");
    link(Path::new("index.html"), "inside.html");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mut spec = spec("site", Prefix::Strip);
    spec.framework = Framework::Static;
    spec.source = Source::Folder { dir: dir.path().to_owned(), entry: None };
    let world = World::with(Setup { specs: vec![spec], limits: Limits::default(), ..Setup::default() }).await;
    std::mem::forget(outside);
    (world, dir)
}

async fn ask(world: &World, line: &str, fields: &str) -> Answer {
    let mut client = world.client().await;
    client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n")).await;
    if line.starts_with("HEAD") { client.head().await } else { client.answer().await }
}

#[tokio::test]
async fn files_are_served_with_type_and_validators() {
    let (world, _dir) = site().await;
    let home = ask(&world, "GET /site/?q=1", "").await;
    assert_eq!((home.status, home.text()), (200, "<h1>home</h1>"));
    assert_eq!(home.field("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(home.field("x-content-type-options"), Some("nosniff"));
    let etag = home.field("etag").unwrap().to_owned();
    let modified = home.field("last-modified").unwrap().to_owned();
    assert!(modified.ends_with(" GMT"), "{modified}");
    for (fields, status) in [
        (format!("If-None-Match: {etag}\r\n"), 304),
        (format!("If-None-Match: \"other\", W/{etag}\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"other\"\r\n".to_owned(), 200),
        (format!("If-Modified-Since: {modified}\r\n"), 304),
        ("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n".to_owned(), 200),
        (format!("If-None-Match: \"other\"\r\nIf-Modified-Since: {modified}\r\n"), 200),
    ] {
        let answer = ask(&world, "GET /site/", &fields).await;
        assert_eq!(answer.status, status, "{fields}");
        assert_eq!(answer.field("etag"), Some(etag.as_str()));
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    assert_eq!(
        ask(&world, "GET /site/a%20b.css", "").await.field("content-type"),
        Some("text/css; charset=utf-8")
    );
    assert_eq!(ask(&world, "GET /site/sub/", "").await.text(), "sub");
    assert_eq!(ask(&world, "GET /site/inside.html", "").await.text(), "<h1>home</h1>");
    let empty = ask(&world, "GET /site/zero.txt", "").await;
    assert_eq!((empty.status, empty.field("content-length")), (200, Some("0")));
    let moved = ask(&world, "GET /site/sub?x=y", "").await;
    assert_eq!((moved.status, moved.field("location")), (308, Some("/site/sub/?x=y")));
    let large = ask(&world, "GET /site/large.bin", "").await;
    assert!(large.body.iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8));
    assert_eq!(large.body.len(), 1_000_000);
    let head = ask(&world, "HEAD /site/large.bin", "").await;
    assert_eq!((head.status, head.field("content-length")), (200, Some("1000000")));
    let post = ask(&world, "POST /site/", "Content-Length: 0\r\n").await;
    assert_eq!((post.status, post.field("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn ranges_are_served() {
    let (world, _dir) = site().await;
    let etag = ask(&world, "HEAD /site/large.bin", "").await.field("etag").unwrap().to_owned();
    let part = ask(&world, "GET /site/large.bin", "Range: bytes=500000-500009\r\n").await;
    assert_eq!((part.status, part.body.len()), (206, 10));
    assert_eq!(part.body[0], (500_000 % 251) as u8);
    assert_eq!(part.field("content-range"), Some("bytes 500000-500009/1000000"));
    let tail = ask(&world, "GET /site/large.bin", "Range: bytes=-300000\r\n").await;
    assert_eq!((tail.status, tail.body.len()), (206, 300_000));
    let none = ask(&world, "GET /site/large.bin", "Range: bytes=1000000-\r\n").await;
    assert_eq!((none.status, none.field("content-range")), (416, Some("bytes */1000000")));
    let fresh =
        ask(&world, "GET /site/large.bin", &format!("Range: bytes=0-0\r\nIf-Range: {etag}\r\n")).await;
    assert_eq!(fresh.status, 206);
    let stale = ask(&world, "GET /site/large.bin", "Range: bytes=0-0\r\nIf-Range: \"old\"\r\n").await;
    assert_eq!((stale.status, stale.body.len()), (200, 1_000_000));
}

#[tokio::test]
async fn nothing_but_the_site_is_served() {
    let (world, _dir) = site().await;
    for path in [
        "skep.toml",
        "%73kep.toml",
        ".env",
        ".git/config",
        "empty/",
        "empty",
        "leak.txt",
        "leak/secret.txt",
        "up.txt",
        "fifo",
        "missing",
        "index.html/x",
        "sub//index.html",
        "%2e%2e%2fskep.toml",
    ] {
        let answer = ask(&world, &format!("GET /site/{path}"), "").await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert!(!answer.text().contains("secret"), "{path}");
    }
    let line = &world.logged("/site/missing", 1).await[0];
    assert_eq!((&line["status"], &line["app"]), (&404.into(), &"site".into()));
}
