//! Precise timers. Those of tokio have a resolution of a millisecond, which is longer than the latency of many
//! services.

#[cfg(target_os = "linux")]
pub(super) use linux::Pacer;
#[cfg(not(target_os = "linux"))]
pub(super) use portable::Pacer;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;
    use tokio::time::Instant;

    /// Timer of the kernel.
    pub(in crate::bench) struct Pacer(AsyncFd<OwnedFd>);

    impl Pacer {
        /// Timer that is driven by the current runtime.
        pub(in crate::bench) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer: OwnedFd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe, since it trusts a type to keep its file open: OwnedFd does"
            )]
            let registered = AsyncFd::new(timer)?;
            Ok(Self(registered))
        }

        /// Waits for `moment`.
        pub(in crate::bench) async fn wait_until(&self, moment: Instant) -> io::Result<()> {
            let wait = moment.saturating_duration_since(Instant::now());
            // Zero would disarm the timer.
            if wait.is_zero() {
                return Ok(());
            }
            let it_value = Timespec::try_from(wait).map_err(|_| io::ErrorKind::InvalidInput)?;
            let timer = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &timer)?;
            loop {
                let mut ready = self.0.readable().await?;
                // Reads the number of expirations: one.
                match ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0_u8; 8])?)) {
                    Ok(read) => return read.map(|_| ()),
                    Err(_would_block) => {}
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use std::io;

    use tokio::time::{Instant, sleep_until};

    /// Timers of tokio: requests may be sent a millisecond late, which the report shows.
    pub(in crate::bench) struct Pacer;

    impl Pacer {
        /// Never fails; the kernel's timers may.
        pub(in crate::bench) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// Waits for `moment`.
        pub(in crate::bench) async fn wait_until(&self, moment: Instant) -> io::Result<()> {
            sleep_until(moment).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Pacer;

    #[tokio::test]
    async fn no_moment_comes_early() {
        let pacer = Pacer::new().expect("a timer");
        for micros in [0, 1, 50, 700, 3_000] {
            let moment = Instant::now() + Duration::from_micros(micros);
            pacer.wait_until(moment).await.expect("the timer works");
            assert!(Instant::now() >= moment, "{micros}");
        }
    }
}
