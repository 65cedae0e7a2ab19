class GpuTables:
    def __init__(self, probes, declared): pass
    def write_section(self, number, profile): pass
    def register(self, decoder): pass
    def count(self, episode, now_ns): pass
    def finish(self, episode): pass
