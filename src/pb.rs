//! The generated protobuf modules, laid out as their packages are. They are checked in, because building the
//! generator takes a twentieth of a first build; `tests/protobuf.rs` generates them from `proto/`.
//! `server::wire` is the only reader of requests.

#![allow(missing_docs, unnameable_types, unreachable_pub, unused_qualifications, reason = "generated code")]
#![allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction, reason = "generated code")]

/// `envoy.*`
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("../proto/generated/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod extensions {
        pub mod common {
            pub mod ratelimit {
                pub mod v3 {
                    include!("../proto/generated/envoy.extensions.common.ratelimit.v3.rs");
                }
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("../proto/generated/envoy.service.discovery.v3.rs");
            }
        }
        pub mod ratelimit {
            pub mod v3 {
                include!("../proto/generated/envoy.service.ratelimit.v3.rs");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            include!("../proto/generated/envoy.r#type.v3.rs");
        }
    }
}

/// `kuadrant.*`
pub mod kuadrant {
    pub mod service {
        pub mod ratelimit {
            pub mod v1 {
                include!("../proto/generated/kuadrant.service.ratelimit.v1.rs");
            }
        }
    }
}

/// `google.*`
pub mod google {
    pub mod rpc {
        include!("../proto/generated/google.rpc.rs");
    }
}

/// `ratelimit.*`
pub mod ratelimit {
    pub mod config {
        pub mod ratelimit {
            pub mod v3 {
                include!("../proto/generated/ratelimit.config.ratelimit.v3.rs");
            }
        }
    }
}

pub use envoy::config::core::v3::HeaderValue;
pub use envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
pub use envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
pub use envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
pub use envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
pub use envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
pub use envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
pub use envoy::r#type::v3::RateLimitUnit;
pub use kuadrant::service::ratelimit::v1::rate_limit_service_client::RateLimitServiceClient as KuadrantClient;

/// The path of Envoy's one question, in gRPC.
pub const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// Path of the same call for `tollgate query`: [`RULES_HEADER`] of its answer names the rules that applied.
pub const EXPLAINED_RATE_LIMIT: &str = "/tollgate.v1.RateLimitService/ShouldRateLimit";

/// Paths of Kuadrant's service.
pub const CHECK_RATE_LIMIT: &str = "/kuadrant.service.ratelimit.v1.RateLimitService/CheckRateLimit";
/// See [`CHECK_RATE_LIMIT`].
pub const REPORT: &str = "/kuadrant.service.ratelimit.v1.RateLimitService/Report";

/// See [`CHECK_RATE_LIMIT`].
pub const RESERVE: &str = "/kuadrant.service.ratelimit.v1.RateLimitService/Reserve";
/// See [`CHECK_RATE_LIMIT`].
pub const COMMIT: &str = "/kuadrant.service.ratelimit.v1.RateLimitService/Commit";

/// Response header with a JSON list: for each descriptor the name of its rule, and its limit.
pub const RULES_HEADER: &str = "tollgate-rules";

/// The descriptors of the files above as Envoy declares them, for gRPC reflection.
pub const REFLECTION: &[u8] = include_bytes!("../proto/generated/reflection.bin");
