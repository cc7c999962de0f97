from tests.bench.workshop import Workshop
from tests.bench.sections import Section
def run(w: Workshop) -> Section:
    raise NotImplementedError
