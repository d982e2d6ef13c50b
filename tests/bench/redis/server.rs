//! A Redis server of the benchmark, and its statistics.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// Number of commands in [`Server::incrby_us`].
const INCRBYS: u32 = 500_000;

/// A Redis server that ends when dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("its address").port()
        };
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        let process = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
        let server = Self { process, port };
        // Each attempt starts a process, so this loop does not spin.
        while server.info("server").is_empty() {}
        server
    }

    fn info(&self, section: &str) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string(), "INFO", section]).output();
        String::from_utf8_lossy(&output.expect("redis-cli is installed").stdout).replace("Could not", "")
    }

    /// Sum of the numbers of a section of INFO with these names.
    fn sum(&self, section: &str, names: &[&str]) -> f64 {
        let text = self.info(section);
        let numbers = text.lines().filter_map(|line| {
            let (name, value) = line.trim().split_once(':')?;
            let value = value.split(',').next()?.trim_start_matches("calls=");
            names.contains(&name).then(|| value.parse::<f64>().ok())?
        });
        numbers.sum()
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        1e6 * self.sum("cpu", &["used_cpu_user", "used_cpu_sys"])
    }

    /// Number of calls of these commands since [`Self::reset_counts`].
    pub(crate) fn commands(&self, names: &[&str]) -> f64 {
        self.sum("commandstats", names)
    }

    pub(crate) fn bytes(&self) -> f64 {
        self.sum("stats", &["total_net_input_bytes", "total_net_output_bytes"])
    }

    pub(crate) fn reset_counts(&self) {
        let arguments = ["-p", &self.port.to_string(), "CONFIG", "RESETSTAT"];
        Command::new("redis-cli").args(arguments).output().expect("redis-cli is installed");
    }
}

impl Server {
    /// CPU time of one `INCRBY`, in microseconds, in batches of 16 on 100,000 keys. Other costs are compared with it.
    pub(crate) fn incrby_us(&self) -> f64 {
        let before = self.cpu_us();
        let port = self.port.to_string();
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &port, "-q", "-P", "16", "-r", "100000", "-n", &INCRBYS.to_string()]);
        let output = command.args(["INCRBY", "incrby:__rand_int__", "1"]).output();
        assert!(output.expect("redis-benchmark is installed").status.success(), "redis-benchmark fails");
        (self.cpu_us() - before) / f64::from(INCRBYS)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
