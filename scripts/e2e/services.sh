# Every type of frontend (ClusterIP, NodePort, LoadBalancer, externalIP, hostPort) by every way back (the gateway, its address, and past it by IP option, Geneve and IP-in-IP) over IPv4 and IPv6, with nginx, curl, iperf3, dnsmasq, dig, UDP and SCTP.
# Budget: 200 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
FRONTENDS="192.0.2.1 2001:db8:1::1"
for last in 80 81; do FRONTENDS="$FRONTENDS 10.96.0.$last 203.0.113.$last 198.51.100.$last 2001:db8:96::$last 2001:db8:cafe::$last 2001:db8:ef::$last"; done

# serve NAME: on the ports that backends have, and on those that clients ask, for those who are asked as the service.
serve() {
    local port listens=
    mkdir "$DIR/$1"
    for port in 8080 80 30080; do listens="$listens listen [::]:$port ipv6only=off;"; done
    cat >"$DIR/$1/nginx.conf" <<CONF
pid $DIR/$1/nginx.pid;
error_log stderr;
worker_processes 1;
user root;
events {}
http {
    access_log off;
    client_body_temp_path $DIR/$1; proxy_temp_path $DIR/$1; fastcgi_temp_path $DIR/$1; uwsgi_temp_path $DIR/$1; scgi_temp_path $DIR/$1;
    map \$remote_addr \$peer { ~^::ffff:(?<v4>.*)$ \$v4; default \$remote_addr; }
    map \$server_addr \$own { ~^::ffff:(?<v4_own>.*)$ \$v4_own; default \$server_addr; }
    server {$listens default_type text/plain; return 200 "$1 \$peer \$own \$server_port\n"; }
}
CONF
    start "$1" "$1-nginx" nginx -c "$DIR/$1/nginx.conf" -p "$DIR/$1" -g 'daemon off;'
    for port in 53 30053; do
        start "$1" "$1-dns" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=$port --no-resolv --no-hosts --user=root --pid-file= --bind-interfaces \
            --address=/web.test/198.18.0.1
    done
    for port in 5201 30521; do start "$1" "$1-iperf3" iperf3 -s -p $port; done
    start "$1" "$1-tell" python3 "$E2E/tell.py" serve "$1" 7007 7 30007
}
direct_host b1 11 $FRONTENDS
direct_host b2 12 $FRONTENDS
ip -n "$LAB-b1" address add 10.244.0.21/24 dev eth0
ip -n "$LAB-b1" address add 2001:db8:2::21/64 dev eth0 nodad
for name in b1 b2; do serve $name; done
for name in b1 b2; do
    for port in 8080 80 30080 53 30053 5201 30521; do eventually 15 listens $name tcp $port; done
    eventually 15 grep -q serving "$DIR/$name-tell.log"
done

# two NAME LAST AFFINITY PORTS TARGETS: a service of both backends at every kind of address that ends in LAST.
two() {
    front "$1" "203.0.113.$2" "2001:db8:cafe::$2" "$4" "sessionAffinity: $3" "externalIPs: [198.51.100.$2, \"2001:db8:ef::$2\"]"
    slices "$1" "$5" 11 12
}
objects world <<END
apiVersion: v1
kind: Node
metadata: {name: $LAB}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8:1::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: lab}
spec:
  nodeName: $LAB
  containers:
    - name: all
      ports:
        - {containerPort: 8080, hostPort: 8081}
        - {containerPort: 53, hostPort: 8053}
        - {containerPort: 53, hostPort: 8053, protocol: UDP}
        - {containerPort: 7007, hostPort: 8007, protocol: UDP}
        - {containerPort: 5201, hostPort: 8521}
        - {containerPort: 9009, hostPort: 8009, protocol: SCTP}
status: {podIPs: [{ip: 10.244.0.21}, {ip: "2001:db8:2::21"}]}
$(two web 80 None '{name: http, port: 80, targetPort: 8080, nodePort: 30080}, {name: dns, port: 53, nodePort: 30053, protocol: UDP},
    {name: dns-tcp, port: 53, nodePort: 30053}, {name: udp, port: 7, targetPort: 7007, nodePort: 30007, protocol: UDP},
    {name: sctp, port: 9, targetPort: 9009, nodePort: 30009, protocol: SCTP}' '{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP},
    {name: dns-tcp, port: 53}, {name: udp, port: 7007, protocol: UDP}, {name: sctp, port: 9009, protocol: SCTP}')
$(two speed 81 ClientIP '{name: iperf, port: 5201, nodePort: 30521}' '{name: iperf, port: 5201}')
END

# way NAME SERVICES: the whole table by one way, without the flows of the one before, which keep theirs: a client's port that
# is used again would be told in the old way.
way() {
    rm -f "$DIR/flows"
    SPEC="  services: {bpf-lb-external-clusterip: true, $2}"
    start_gateway
    at c1 python3 "$E2E/services.py" "$1" || fail "not every type of frontend by $1"
    stop "$GATEWAY"
}
# direct WAY KIND SERVICES: as `way`, and both backends are told by that kind and no other.
direct() {
    local b1 b2
    b1=$(told_by_kind b1) b2=$(told_by_kind b2)
    way "$1" "$3"
    eventually 2 told_only "$2" "$b1" b1
    eventually 2 told_only "$2" "$b2" b2
}
way dnat 'mode: dnat'
way snat 'mode: snat, snatAddresses: [10.244.0.1, "2001:db8:2::1"]'
far_end b1 11
far_end b2 12
for dispatch in opt geneve ipip; do direct $dispatch $dispatch "mode: dsr, bpf-lb-dsr-dispatch: $dispatch"; done
direct hybrid ipip 'mode: hybrid, bpf-lb-dsr-dispatch: ipip, snatAddresses: [10.244.0.1, "2001:db8:2::1"]'
