//! The container image: its contents, and that it serves without privileges.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::pod::{Image, Pod, run, variables};

const RULES: &str = "domain: shop\ndescriptors:\n  - key: user\n    rate_limit: 2/hour\n";

#[test]
fn the_image_has_the_program_and_what_it_needs() {
    let image = Image::unpack();
    assert_eq!(image.config["User"], "65534:65534");
    assert_eq!(image.config["Entrypoint"], json!(["/bin/tollgate"]));
    assert_eq!(image.config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(fs::read_link(image.root.join("bin/ratelimit")).unwrap(), Path::new("tollgate"));
    let certificates = fs::read_to_string(image.root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(certificates.contains("BEGIN CERTIFICATE"));
    assert!(image.root.join("data/ratelimit/config").is_dir());
    // Any user that a cluster chooses can read everything, and only root can write.
    let others = ["!", "-type", "l", "!", "-perm", "0644", "!", "-perm", "0755"];
    assert_eq!(run(Command::new("find").arg(&image.root).args(others)), "");
}

#[test]
fn the_bill_of_materials_lists_every_crate_that_is_linked() {
    let image = Image::unpack();
    let inside = fs::read(image.root.join("usr/share/doc/tollgate/sbom.cdx.json")).unwrap();
    assert_eq!(fs::read(image.archive.with_extension("tar.cdx.json")).unwrap(), inside);
    let bom: Value = serde_json::from_slice(&inside).unwrap();
    assert_eq!(bom["metadata"]["component"]["name"], "tollgate");
    let components = bom["components"].as_array().unwrap();
    let component = |name: &str| components.iter().find(|component| component["name"] == name);
    for name in ["tonic", "fred", "rustls", "mimalloc", "libc6"] {
        let found = component(name).unwrap_or_else(|| panic!("{name} is not listed"));
        assert!(found["purl"].as_str().unwrap().starts_with("pkg:"), "{found}");
    }
    // Development dependencies are not in the program.
    for name in ["proptest", "envoy-types", "rcgen"] {
        assert!(component(name).is_none(), "{name}");
    }
    let unhashed = |component: &&Value| {
        component["purl"].as_str().unwrap().starts_with("pkg:cargo/") && component["hashes"].is_null()
    };
    assert_eq!(components.iter().find(unhashed), None);
}

#[test]
fn the_same_input_gives_the_same_image_and_platforms_are_joined() {
    let first = Image::unpack();
    let dir = first.directory("joined");
    let second = dir.join("second.tar");
    Image::write(&second);
    assert!(fs::read(&first.archive).unwrap() == fs::read(&second).unwrap(), "two builds differ");

    // A program whose ELF header names the other architecture.
    let program = first.root.join("bin/tollgate");
    let mut elf = fs::read(&program).unwrap();
    let machine = if elf[18] == 62 { 183 } else { 62 };
    elf[18] = machine;
    fs::write(&program, elf).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/image/oci.py");
    let (other, joined) = (dir.join("other.tar"), dir.join("joined.tar"));
    let name = format!("tollgate:{}", env!("CARGO_PKG_VERSION"));
    run(Command::new(&script)
        .args(["pack", "--name", &name, "--revision", "unknown", "--created", "0", "--level", "1"])
        .arg("--rootfs")
        .arg(&first.root)
        .arg("--output")
        .arg(&other));
    run(Command::new(&script).args(["merge", "--output"]).args([&joined, &second, &other]));
    run(Command::new("tar").arg("-xf").arg(&joined).arg("-C").arg(&dir));
    let read = |path: &str| -> Value { serde_json::from_slice(&fs::read(dir.join(path)).unwrap()).unwrap() };
    let outer = read("index.json");
    let digest = outer["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    let index = read(&format!("blobs/{digest}"));
    let platforms: Vec<_> = index["manifests"].as_array().unwrap().iter().collect();
    let mut platforms: Vec<_> =
        platforms.iter().map(|entry| entry["platform"]["architecture"].as_str().unwrap()).collect();
    platforms.sort_unstable();
    assert_eq!(platforms, ["amd64", "arm64"]);
    // The same platform twice is a mistake.
    let twice =
        Command::new(&script).args(["merge", "--output"]).args([&joined, &second, &second]).output().unwrap();
    assert!(!twice.status.success());
    assert!(String::from_utf8_lossy(&twice.stderr).contains("same architecture"), "{twice:?}");
}

/// A directory as kubelet mounts a ConfigMap or a Secret: files are links into a directory that is replaced whole.
fn volume(image: &Image, name: &str, contents: &[(&str, &str)]) -> PathBuf {
    let dir = image.directory(name);
    let version = dir.join("..2026_11_27");
    fs::create_dir(&version).unwrap();
    symlink("..2026_11_27", dir.join("..data")).unwrap();
    for (name, text) in contents {
        fs::write(version.join(name), text).unwrap();
        symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
    }
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_serves_without_privileges_with_the_environment_of_istio() {
    let image = Image::unpack();
    let rules = volume(&image, "rules", &[("config.yaml", RULES)]);
    let mut environment = variables(include_str!("data/istio.env"));
    // No Redis here; everything else is Istio's.
    environment.push(("BACKEND_TYPE".to_owned(), "memory".to_owned()));
    let mounts = [(rules.as_path(), "/data/ratelimit/config")];
    let mut pod = Pod::start(&image, &["/bin/ratelimit"], &environment, &mounts).await;
    pod.is_healthy("http://127.0.0.1:8080/healthcheck").await;

    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(pod.status(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!(pod.status("NoNewPrivs"), "1");
    // IPv6 and IPv4.
    for host in ["[::1]", "127.0.0.1"] {
        assert_eq!(pod.get(&format!("http://{host}:8080/healthcheck")).0, 200, "{host}");
    }
    let query = ["query", "-d", "shop", "user=alice", "--address", "[::1]:8081"];
    let query: Vec<_> = std::iter::once(env!("CARGO_BIN_EXE_tollgate")).chain(query).collect();
    let answers: Vec<_> = (0..3).map(|_| pod.in_network(&query)).collect();
    let codes: Vec<_> = answers.iter().map(|answer| answer.lines().next().unwrap_or_default()).collect();
    assert_eq!(codes, ["OK", "OK", "OVER_LIMIT"], "{answers:?}");
    assert_eq!(pod.stop().await, Some(0), "{}", pod.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_serves_in_the_pod_of_envoy_gateway() {
    let image = Image::unpack();
    let certificates = volume(
        &image,
        "certs",
        &[
            ("ca.crt", include_str!("../src/tls/tests/gateway-ca.crt")),
            ("tls.crt", include_str!("../src/tls/tests/gateway.crt")),
            ("tls.key", include_str!("../src/tls/tests/gateway.key")),
        ],
    );
    let mapping = "mappings:\n- match: ratelimit.service.config_load_success\n  name: ratelimit_service_config_load_success\n";
    let exporter = volume(&image, "exporter", &[("conf.yaml", mapping)]);
    let environment = variables(include_str!("data/envoy-gateway.env"));
    let mounts = [(certificates.as_path(), "/certs"), (exporter.as_path(), "/etc/statsd-exporter")];
    let mut pod = Pod::start(&image, &["/bin/ratelimit"], &environment, &mounts).await;
    // Healthy without a management server and without Redis. All three probes of the pod use this path.
    pod.is_healthy("http://127.0.0.1:8080/healthcheck").await;

    let (status, metrics) = pod.get("http://127.0.0.1:19001/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("process_resident_memory_bytes"), "{metrics}");
    assert_eq!(pod.get("http://127.0.0.1:6070/rlconfig").0, 503, "there are no rules yet");
    // gRPC over TLS, and nothing in plain text.
    let version = ["-sk", "--http2", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_version}"];
    let curl: Vec<_> = std::iter::once("curl").chain(version).collect();
    assert_eq!(pod.in_network(&[&curl[..], &["https://127.0.0.1:8081/"]].concat()), "2");
    assert_eq!(pod.get("http://127.0.0.1:8081/").0, 0);
    assert_eq!(pod.stop().await, Some(0), "{}", pod.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_serves_as_the_manifests_start_it() {
    let manifests = include_str!("../deploy/kubernetes/base/tollgate.yaml");
    let manifests: Vec<Value> = serde_yaml::from_multiple(manifests).unwrap();
    let deployment = manifests.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let environment: Vec<_> = container["env"].as_array().unwrap().iter().collect();
    let environment: Vec<_> =
        environment.iter().map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect();
    let image = Image::unpack();
    let rules =
        volume(&image, "rules", &[("rules.yaml", include_str!("../deploy/kubernetes/base/rules.yaml"))]);
    let mounts = [(rules.as_path(), container["volumeMounts"][0]["mountPath"].as_str().unwrap())];
    let mut pod = Pod::start(&image, &["/bin/tollgate"], &environment, &mounts).await;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = text(&container[probe]["httpGet"]["path"]);
        pod.is_healthy(&format!("http://127.0.0.1:8080{path}")).await;
    }
    assert_eq!(pod.get("http://127.0.0.1:9090/metrics").0, 200);
    assert!(pod.get("http://127.0.0.1:6070/rlconfig").1.contains("example"));
}
