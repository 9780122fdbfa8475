//! A large cluster as YAML, as regular as large clusters are.

use std::fmt::Write as _;

/// How much of everything.
pub struct Size {
    pub namespaces: usize,
    pub apps: usize,
    pub pods_each: usize,
    pub policies_each: usize,
}

impl Size {
    /// 100 namespaces with 50 apps of 10 pods and 100 policies each, or a part of that.
    pub fn divided(by: usize) -> Self {
        Self { namespaces: (100 / by).max(2), apps: 50, pods_each: 10, policies_each: 100 }
    }
}

pub fn world(size: &Size) -> String {
    let mut text = String::new();
    text.push_str("apiVersion: v1\nkind: Node\nmetadata: {name: us}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n");
    let mut number = 0_u32;
    for ns in 0..size.namespaces {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: ns{ns}, labels: {{team: t{}}}}}\n",
            ns % 10
        );
        for app in 0..size.apps {
            for pod in 0..size.pods_each {
                number += 1;
                let ip = std::net::Ipv4Addr::from(0x0A00_0000 + number);
                let _ = write!(
                    text,
                    "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: app{app}-{pod}\n  namespace: ns{ns}\n  labels: {{app: app{app}, tier: tier{}}}\n\
                     spec:\n  nodeName: node{}\n  containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]\nstatus: {{podIPs: [{{ip: {ip}}}]}}\n",
                    app % 5,
                    number % 100,
                );
            }
        }
        for policy in 0..size.policies_each {
            let _ = write!(text, "---\n{}", one_policy(ns, policy, size));
        }
    }
    text
}

pub fn one_policy(ns: usize, n: usize, size: &Size) -> String {
    let app = |k: usize| (n * 7 + k * 3) % size.apps;
    let peers = match n % 4 {
        0 => format!(
            "    - fromEndpoints: [{{matchLabels: {{app: app{}}}}}, {{matchLabels: {{app: app{}}}}}]\n      toPorts: [{{ports: [{{port: '{}', protocol: TCP}}]}}]\n",
            app(1),
            app(2),
            8000 + n
        ),
        1 => format!(
            "    - fromEndpoints: [{{matchLabels: {{'k8s:io.kubernetes.pod.namespace': ns{}, app: app{}}}}}]\n      toPorts: [{{ports: [{{port: http, protocol: TCP}}]}}]\n",
            (ns + n) % size.namespaces,
            app(1)
        ),
        2 => format!(
            "    - fromCIDRSet: [{{cidr: 198.{}.{}.0/24, except: [198.{}.{}.128/25]}}]\n      toPorts: [{{ports: [{{port: '443', protocol: TCP}}]}}]\n",
            n % 200,
            ns % 200,
            n % 200,
            ns % 200
        ),
        _ => format!(
            "    - fromEndpoints: [{{matchLabels: {{tier: tier{}}}}}]\n    - fromEntities: [host]\n",
            n % 5
        ),
    };
    let egress = if n.is_multiple_of(3) {
        "  egress:\n    - toEndpoints: [{}]\n    - toEntities: [world]\n      toPorts: [{ports: [{port: '443', protocol: TCP}]}]\n"
    } else {
        ""
    };
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{n}, namespace: ns{ns}}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: app{}}}}}\n  ingress:\n{peers}{egress}",
        app(0)
    )
}

/// A policy that all pods are subject to: every class is made again.
pub fn everybody(n: usize) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: everybody}}\nspec:\n  \
         endpointSelector: {{}}\n  enableDefaultDeny: {{ingress: false}}\n  ingressDeny: [{{fromCIDR: [198.18.{}.0/24]}}]\n",
        n % 250
    )
}
