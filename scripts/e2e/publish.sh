# At 10,000 policies and 50,000 pods, one pod added or one policy changed is live on both workers within milliseconds.
# Budget: 170 s
QUEUES=2
WORKERS=2
. "$(dirname "$0")/lib.sh"
lab
endpoint c1 11 out 'app: client' | objects hosts
start_gateway

# 100 namespaces with 50 apps of 10 pods and 100 policies: a file of pods a namespace, a file a policy.
python3 - "$DIR/cluster" <<'END'
import os, sys
root, number = sys.argv[1], 0
for ns in range(100):
    os.makedirs(f"{root}/ns{ns}")
    with open(f"{root}/ns{ns}/pods.yaml", "w") as out:
        out.write(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: ns{ns}, labels: {{team: t{ns % 10}}}}}\n")
        for app in range(50):
            for pod in range(10):
                number += 1
                ip = f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
                out.write(f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: app{app}-{pod}, namespace: ns{ns}, "
                          f"labels: {{app: app{app}, tier: tier{app % 5}}}}}\nstatus: {{podIPs: [{{ip: {ip}}}]}}\n")
    for n in range(100):
        with open(f"{root}/ns{ns}/policy{n}.yaml", "w") as out:
            out.write(f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{n}, namespace: ns{ns}}}\n"
                      f"spec:\n  endpointSelector: {{matchLabels: {{app: app{n % 50}}}}}\n  ingress:\n"
                      f"    - fromEndpoints: [{{matchLabels: {{app: app{(n * 7 + 3) % 50}}}}}]\n"
                      f"      toPorts: [{{ports: [{{port: '{8000 + n}', protocol: TCP}}]}}]\n")
END
began=$(now_ms)
mv "$DIR/cluster" "$DIR/objects/cluster"
whole() { [ "$(status '.objects.policies')" = 10000 ] && live; }
eventually 90 whole
figure "$(status '"\(.objects.policies) policies and \(.objects.endpoints) endpoints"') live $(($(now_ms) - began)) ms after they were put in place"

buckets() { sluice metrics | grep '^sluice_publish_seconds_bucket' | sed 's/.*le="\([^"]*\)"} /\1 /'; }
# Changes one after the other, each with time to settle.
pods() {
    local n
    for n in $(seq "$1"); do
        printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: new%s, namespace: ns%s, labels: {app: app1, tier: tier1}}\nstatus: {podIPs: [{ip: 10.99.0.%s}]}\n' \
            "$n" "$n" "$n" >"$DIR/new.yaml"
        mv "$DIR/new.yaml" "$DIR/objects/cluster/new$n.yaml"
        sleep 0.1
    done
}
policies() {
    local n file
    for n in $(seq "$1"); do
        file=$DIR/objects/cluster/ns$((n % 100))/policy$((n * 3 % 100)).yaml
        sed "s/port: '[0-9]*'/port: '$((20000 + n))'/" "$file" >"$DIR/new.yaml"
        mv "$DIR/new.yaml" "$file"
        sleep 0.1
    done
}
measure() {
    local before after what=$1
    before=$(buckets); "$2" "$3"
    sleep 0.5
    after=$(buckets)
    python3 - "$what" "$3" "$before" "$after" <<'END'
import sys
what, wanted, before, after = sys.argv[1], int(sys.argv[2]), *(dict(line.split() for line in text.splitlines()) for text in sys.argv[3:5])
counts = {edge: float(after[edge]) - float(before.get(edge, 0)) for edge in after}
total = counts["+Inf"]
edge = lambda share: next(e for e in after if counts[e] >= share * total)
print(f"figure: {what}: {total:.0f} changes, live on every worker within {float(edge(0.5)) * 1000:g} ms at p50, {float(edge(0.99)) * 1000:g} ms at p99")
assert total >= 0.9 * wanted, counts
assert float(edge(0.99)) <= 0.5, "a change costs as much as the whole"
END
}
measure 'one pod added' pods 100
measure 'one policy changed' policies 100
