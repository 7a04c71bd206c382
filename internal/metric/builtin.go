package metric

import picketv1 "github.com/picketd/picket/proto/picket/v1"

// NodeExporter is the built-in mapping for Prometheus' node_exporter on Linux.
const NodeExporter = "node_exporter"

const (
	// noDisk is what is no disk: memory, images that are always full, and views of other filesystems.
	noDisk = `tmpfs|ramfs|rootfs|devtmpfs|devfs|overlay|aufs|squashfs|erofs|cramfs|iso9660|udf|nsfs|autofs|fuse\..+`
	// noWire is what is no way out of the machine: the loopback device, and ends of containers and bridges, which would
	// count the same bytes again, and whose totals vanish with them.
	noWire = `lo|veth.*|docker.*|br-.*|virbr.*|vnet.*|tap.*|cni.*|cali.*|flannel.*|lxc.*|dummy.*`
	// aService selects what systemd calls a service.
	aService = "name=~`.+\\.service`"
)

// Mappings are the names of those that are built in, sorted.
func Mappings() []string { return []string{NodeExporter} }

// BuiltIn returns the rules of a built-in mapping, in the language of everybody's rules.
func BuiltIn(name string) (rules []*picketv1.MetricRule, known bool) {
	if name != NodeExporter {
		return nil, false
	}
	return []*picketv1.MetricRule{
		// The share of time in which a processor was not idle.
		{Name: CPUPercent, Series: `node_cpu_seconds_total{mode="idle"}`, Rate: true, Aggregate: "avg", Scale: -100, Offset: 100},
		{
			Name: MemoryPercent, Series: `node_memory_MemAvailable_bytes`, DivideBy: `node_memory_MemTotal_bytes`,
			Scale: -100, Offset: 100,
		},
		// The fullest filesystem, by what others than root can still write.
		{
			Name: DiskPercent, Series: "node_filesystem_avail_bytes{fstype!~`" + noDisk + "`}",
			DivideBy: `node_filesystem_size_bytes`, Aggregate: "min", Scale: -100, Offset: 100,
		},
		{Name: NetworkRxBytes, Series: "node_network_receive_bytes_total{device!~`" + noWire + "`}"},
		{Name: NetworkTxBytes, Series: "node_network_transmit_bytes_total{device!~`" + noWire + "`}"},
		// Only where node_exporter runs with --collector.systemd.
		{Name: ActiveServices, Series: `node_systemd_unit_state{state="active",` + aService + `}`},
		{Name: FailedServices, Series: `node_systemd_unit_state{state="failed",` + aService + `}`},
		{Name: TotalServices, Series: `node_systemd_unit_state{state="active",` + aService + `}`, Aggregate: "count"},
	}, true
}
