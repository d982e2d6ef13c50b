//! Waiting for a moment, more closely than tokio's timers do: those count in milliseconds, which is longer
//! than many a service takes to answer.

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

    /// One of the kernel's timers.
    pub(in crate::bench) struct Pacer(AsyncFd<OwnedFd>);

    impl Pacer {
        /// A timer of the runtime that this is called in.
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
            // The kernel would take zero for never.
            if wait.is_zero() {
                return Ok(());
            }
            let it_value = Timespec::try_from(wait).map_err(|_| io::ErrorKind::InvalidInput)?;
            let timer = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &timer)?;
            loop {
                let mut ready = self.0.readable().await?;
                // What is read is how often it went off: once.
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

    /// tokio's timers: requests may be sent a millisecond late, which the report shows.
    pub(in crate::bench) struct Pacer;

    impl Pacer {
        /// It does not fail; better timers may.
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
