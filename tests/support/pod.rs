//! The image, unpacked, and containers of it: what a kubelet would run, without one.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{PATIENCE, eventually};

/// The user of the image.
pub(crate) const USER: &str = "65534";

/// An image of the program under test.
pub(crate) struct Image {
    /// `config` of the image's configuration: user, entry point and so on.
    pub(crate) config: Value,
    /// The archive that `deploy/image/build.sh` wrote.
    pub(crate) archive: PathBuf,
    /// The unpacked layer.
    pub(crate) root: PathBuf,
    dir: TempDir,
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The blob that `descriptor` names, with its size and digest checked.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let name = descriptor["digest"].as_str().expect("a digest");
    let bytes = fs::read(layout.join("blobs").join(name.replace(':', "/"))).expect("a blob");
    assert_eq!(sha256(&bytes), name);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

impl Image {
    /// Writes an archive with the image of the program under test, and its bill of materials beside it.
    pub(crate) fn write(archive: &Path) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/image/build.sh");
        let mut build = Command::new(script);
        build.args(["--binary", env!("CARGO_BIN_EXE_tollgate"), "--level", "1"]).arg(archive);
        run(&mut build);
    }

    /// The image of the program under test, unpacked anew.
    pub(crate) fn unpack() -> Self {
        // Written once for all tests: the program of a development build is large.
        static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
        let archive = ARCHIVE.get_or_init(|| {
            let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let (ours, archive) = (target.join(format!("image-{}", id())), target.join("image.tar"));
            Self::write(&ours);
            fs::rename(ours.with_extension("cdx.json"), target.join("image.tar.cdx.json")).expect("renamed");
            fs::rename(&ours, &archive).expect("renamed");
            archive
        });
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Another user has to reach the files.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our directory");
        let layout = dir.path().join("layout");
        fs::create_dir(&layout).expect("a directory");
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&layout));
        let index = json(&fs::read(layout.join("index.json")).expect("an index"));
        let manifest = json(&blob(&layout, &index["manifests"][0]));
        let config = json(&blob(&layout, &manifest["config"]));
        assert_eq!(manifest["layers"].as_array().expect("layers").len(), 1);
        let compressed = blob(&layout, &manifest["layers"][0]);
        let mut layer = Vec::new();
        GzDecoder::new(&*compressed).read_to_end(&mut layer).expect("gzip");
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&layer));

        let (root, tar) = (dir.path().join("root"), dir.path().join("layer.tar"));
        fs::create_dir(&root).expect("a directory");
        fs::write(&tar, layer).expect("a file");
        run(Command::new("tar").arg("-xpf").arg(&tar).arg("-C").arg(&root));
        Self { config: config["config"].clone(), archive: archive.clone(), root, dir }
    }

    /// A directory for files of a test that its containers read.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    }
}

/// A container: its own network and processes, a root file system that cannot be written, no capabilities,
/// user 65534.
pub(crate) struct Pod {
    pub(crate) process: Process,
    pid: String,
}

impl Pod {
    /// Starts `command` of the image with `environment` and nothing else in it, and with each directory of
    /// `mounts` at its path.
    pub(crate) async fn start(
        image: &Image,
        command: &[&str],
        environment: &[(String, String)],
        mounts: &[(&Path, &str)],
    ) -> Self {
        // Container runtimes make mount points before the root becomes read-only.
        for point in mounts.iter().map(|(_, point)| *point).chain(["/proc", "/dev"]) {
            fs::create_dir_all(image.root.join(&point[1..])).expect("a mount point");
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let info = dir.path().join("info.json");
        let mut bwrap = Command::new("sh");
        // As root, first become the user of the image; otherwise bubblewrap maps ours to it.
        bwrap.args([
            "-c",
            "exec 3>\"$0\"; become=; \
             [ \"$(id -u)\" != 0 ] || become='setpriv --reuid=65534 --regid=65534 --clear-groups'; \
             exec $become bwrap --info-fd 3 \"$@\"",
        ]);
        bwrap.arg(&info).args(["--unshare-all", "--uid", USER, "--gid", USER, "--cap-drop", "ALL"]);
        bwrap.args(["--as-pid-1", "--die-with-parent", "--chdir", "/", "--clearenv"]).arg("--ro-bind");
        bwrap.arg(&image.root).args(["/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]);
        for (directory, point) in mounts {
            bwrap.arg("--ro-bind").arg(directory).arg(point);
        }
        for (name, value) in environment {
            bwrap.args(["--setenv", name, value]);
        }
        bwrap.args(command);
        let mut process = Process::start("tollgate", &mut bwrap, image.dir.path());
        let mut pid = String::new();
        eventually("the container starts", async || {
            assert!(!process.has_ended(), "the container ends: {}", process.output());
            let text = fs::read(&info).unwrap_or_default();
            let id = serde_json::from_slice::<Value>(&text).ok().map(|info| info["child-pid"].to_string());
            pid = id.unwrap_or_default();
            !pid.is_empty()
        })
        .await;
        Self { process, pid }
    }

    /// Runs a program of this machine in the container's network, and returns what it printed.
    pub(crate) fn in_network(&self, command: &[&str]) -> String {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.pid, "--user", "--net", "--preserve-credentials"]).args(command);
        let output = nsenter.output().expect("nsenter");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Status and body of `GET url` in the container's network; the status is 0 without an answer.
    pub(crate) fn get(&self, url: &str) -> (u16, String) {
        let answer = self.in_network(&["curl", "-sk", "--max-time", "10", "-w", "\n%{http_code}", url]);
        let (body, status) = answer.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// Waits until the container answers `url` with 200.
    pub(crate) async fn is_healthy(&mut self, url: &str) {
        eventually("the container is healthy", async || {
            assert!(!self.process.has_ended(), "the container ends: {}", self.process.output());
            self.get(url).0 == 200
        })
        .await;
    }

    /// A line of the kernel's description of the container's first process.
    pub(crate) fn status(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("{name} in {status}")).to_owned()
    }

    /// Ends it as a kubelet does, and returns its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        run(Command::new("kill").args(["-TERM", &self.pid]));
        self.process.exit_code(PATIENCE).await
    }
}

/// The variables of a file with one `NAME=value` a line, as containers get them.
pub(crate) fn variables(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line}: no variable")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
