//! A program that embeds tollgate: serves the rules of a directory for some seconds, then drains.
//!
//! `cargo run --example embed -- config/rules 5`. The path and the seconds are optional.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::time::Duration;

use tollgate::app::{App, Shutdown};
use tollgate::settings::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let rules = args.next().unwrap_or_else(|| "config".to_owned());
    let secs: u64 = args.next().map_or(Ok(1), |secs| secs.parse())?;

    // The settings of `tollgate serve`, under the names of their variables. Port 0 takes a free one.
    let settings = Settings::from_variables(&[
        ("RULES_PATH", &rules),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("GRPC_HOST", "127.0.0.1"),
        ("GRPC_PORT", "0"),
        ("DEBUG_HOST", "127.0.0.1"),
        ("DEBUG_PORT", "0"),
        ("ADMIN_PORT", "off"),
    ])?;
    // `tollgate::app::run(settings, shutdown)` does both steps, for programs that do not need the addresses.
    let app = App::start(settings).await?;
    println!("gRPC at {}, HTTP at {}", app.addresses().grpc, app.addresses().http);
    println!("{} rules", app.rules().map_or(0, |rules| rules.len()));

    let shutdown = Shutdown::default();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(secs)).await;
        stop.drain.cancel();
    });
    app.run(shutdown).await?;
    println!("stopped");
    Ok(())
}
